"""Announce an image to Fedora's website, which lists AMIs by fedora-image-uploader's message.

The website reads one message of an image and architecture, with all regions in it. Of several
messages of one image it unites the regions: a job that publishes in more regions later, by a retry
or because a region was added, sends another one with all regions that it has by then.
"""

from __future__ import annotations

import hashlib
import json
import logging

from fedimg.bus import messages
from fedimg.config import Settings
from fedimg.images import RELEASES, SUBVARIANT, RawImage, Virtualization
from fedimg.store import rows
from fedimg.store.store import Store
from fedimg.untrusted import patterns

_log = logging.getLogger(__name__)


class WebsiteMessage:
    """The website's message about a job, put into the outbox when a run of the job has ended.

    Args:
        store: the database.
        settings: the site's; nothing is sent unless `announcing.also` says so.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def announce(self, job: str) -> None:
        """Announce a job's public AMIs of its first HVM type, unless the same ones were before.

        The log says why there is no message about an image that is public.
        """
        if not self._settings.announcing.also:
            return
        row = self._store.job(job)
        regions = self._public(job)
        if row is None or not regions:
            return
        known = self._release(row.image)
        if isinstance(known, str):
            _log.warning(
                "job %s: no message to the website about %s: %s", job, row.image.name, known
            )
            return
        body = messages.aws_published(row.image, *known, regions)
        # Of the same AMIs there is one message, however often the end of the run is recorded.
        digest = hashlib.sha256(json.dumps(body["regions"]).encode()).hexdigest()[:16]
        topic = messages.AWS_PUBLISHED
        self._store.announce(f"{topic}:{job}:{digest}", topic, body)

    def _public(self, job: str) -> dict[str, str]:
        """Return the public AMI by region, of the first HVM type of which the job has any."""
        public = [row for row in self._store.amis_of(job) if row.state == rows.PUBLIC]
        for each in self._settings.ec2.amis.types:
            if each.virtualization is not Virtualization.HVM:
                continue
            if found := {row.region: row.ami for row in public if row.type == each}:
                return found
        return {}

    def _release(self, image: RawImage) -> tuple[int, str] | str:
        """Return an image's release and subvariant, or why they are not known."""
        kind = image.source.partition("-")[0]
        if kind not in self._settings.catalogue.latest:
            return (
                f'catalogue.latest does not have "{kind}", so that it is no release\'s newest image'
            )
        if kind == "compose":
            if image.release is None:
                return "the compose's metadata has no number of a release"
            if image.subvariant is None:
                return "the compose's metadata names no valid subvariant of it"
            return image.release, image.subvariant
        pattern = self._settings.announcing.name_pattern
        found = patterns.captured(pattern, image.file_name) or {}
        release, subvariant = found.get("release", ""), found.get("subvariant", "")
        subvariant = subvariant.replace("-", "_")
        fits = release.isascii() and release.isdecimal() and 0 < int(release[:6]) < RELEASES
        if not fits or not SUBVARIANT.fullmatch(subvariant):
            return "announcing.name_pattern finds no release and subvariant in the file's name"
        return int(release), subvariant
