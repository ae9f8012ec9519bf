"""Which images of an announced task, build or compose the site publishes: its source is asked.

Whoever heard of it knows the id alone (fedimg.intake.announcement).
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime

from fedimg.config import Koji, Settings
from fedimg.exceptions import Cancelled
from fedimg.images import Architecture, RawImage
from fedimg.intake.deferred import Defer, DeferReason, whom
from fedimg.sources import http
from fedimg.sources.composes import Composes
from fedimg.sources.file_server import Trusted
from fedimg.sources.koji import KojiHub
from fedimg.sources.lookup import (
    LookupRefused,
    LookupResult,
    NotFinished,
    SourceFails,
    SourceUnavailable,
)
from fedimg.sources.measure import measure
from fedimg.untrusted import patterns
from fedimg.untrusted.quoting import one_line

#: How long, in seconds, an entry without an answer keeps its place among those that are asked for.
PATIENCE = 60.0
#: The first pause before the hub is asked again, in seconds; each is twice as long as the last.
FIRST_PAUSE = 1.0
_DAY = 86400.0

_log = logging.getLogger(__name__)


class Sources:
    """Whoever can be asked about an entry, by its kind: the Koji hub, the composes' locations."""

    def __init__(self, settings: Settings) -> None:
        self._hub = KojiHub(settings.koji)
        self._composes = Composes(settings.composes)

    def find(self, entry: str) -> LookupResult:
        """Return what an entry is, with its images.

        Raises SourceUnavailable, NotFinished or LookupRefused.
        """
        return (self._composes if entry.startswith("compose:") else self._hub).find(entry)


def wanted(found: LookupResult, koji: Koji) -> list[RawImage]:
    """The images that the site publishes; why the others are left out is logged.

    Anyone who may build scratch images can name one Fedora-Cloud-Base: the owner counts first.
    """
    owners = koji.scratch_owners if found.scratch else koji.build_owners
    if found.owner is not None and found.owner not in owners:
        _log.info(
            '%s is left out: its owner "%s" is not in koji.%s',
            found.entry,
            one_line(found.owner, 80),
            "scratch_owners" if found.scratch else "build_owners",
        )
        return []
    images = []
    for image in found.images:
        if reason := _unwanted(image, koji):
            _log.info("%s, %s is left out: %s", found.entry, image.file_name, reason)
        else:
            images.append(image)
    if not found.images:
        _log.info("%s has no raw image that EC2 could run", found.entry)
    return images


def _unwanted(image: RawImage, koji: Koji) -> str | None:
    if image.architecture not in map(Architecture.from_koji, koji.architectures):
        return f"{image.architecture} is not in koji.architectures"
    if not any(patterns.matches(pattern, image.file_name) for pattern in koji.name_patterns):
        return "its name matches none of koji.name_patterns"
    for pattern in koji.exclude_patterns:
        if patterns.matches(pattern, image.file_name):
            return f'its name matches "{pattern}" of koji.exclude_patterns'
    return None


def too_old(found: LookupResult, days: float) -> str | None:
    """Why an announcement of this is not believed any more; None when it is.

    An announcement that was signed once can be sent again by anybody who heard it.
    """
    if found.completed is None:
        return "its finish time is unknown; to publish it anyway, run 'fedimg replay'"
    now = time.time() if found.now is None else found.now
    age = (now - found.completed) / _DAY
    if age <= days:
        return None
    when = datetime.fromtimestamp(found.completed, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        f"it finished at {when}, {age:.0f} days ago, and intake.max_age_days is {days:g}; to "
        "publish it anyway, run 'fedimg replay --since' with a time before that"
    )


def ask(
    entry: str,
    sources: Sources,
    settings: Settings,
    stop: threading.Event,
    *,
    any_age: bool = False,
) -> list[RawImage]:
    """The images of an entry that the site publishes; empty when there will never be any.

    Who does not answer is asked again, for PATIENCE. With `any_age` there may be images of what
    finished long ago. Raises Defer when that is over, Cancelled
    when `stop` is set.
    """
    koji = settings.koji
    until = time.monotonic() + PATIENCE
    pause = min(FIRST_PAUSE, koji.retry_seconds)
    while not stop.is_set():
        why, reason = DeferReason.SILENT, ""
        try:
            found = sources.find(entry)
            days = settings.intake.max_age_days
            if not any_age and (old := too_old(found, days)):
                _log.warning("%s is dropped: %s", entry, old)
                return []
            return [_measured(image, settings) for image in wanted(found, koji)]
        except LookupRefused as error:
            _log.warning("%s is dropped: %s", entry, error)
            return []
        except NotFinished as error:
            # A replica of the hub's database lags by seconds.
            why, reason = DeferReason.UNFINISHED, str(error)
        except SourceFails as error:
            why, reason = DeferReason.STUMBLES, str(error)
        except (SourceUnavailable, http.NoAnswer) as error:
            reason = str(error)
        if time.monotonic() + pause > until:
            raise Defer(why, reason)
        _log.warning("%s waits for %s, retries in %g s: %s", entry, whom(entry), pause, reason)
        stop.wait(pause)
        pause = min(pause * 2, koji.retry_seconds)
    raise Cancelled(f"{entry} waits for {whom(entry)} until the worker runs again")


def _measured(image: RawImage, settings: Settings) -> RawImage:
    """The image with its size, which Koji does not tell of scratch tasks' files.

    By name and size it is known again when somebody else announces it.
    """
    if image.size is not None:
        return image
    try:
        found = measure(image.url, settings.koji.timeout, Trusted.of(settings.ec2, image))
    except http.NotFound as error:
        # The job says so, to whoever reads it.
        _log.warning("cannot measure the size of %s: %s", image.url, error)
        return image
    return replace(image, size=found.size)
