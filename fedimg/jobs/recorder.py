"""Record a job's AMIs and progress in the store, and its announcements in the outbox.

fedimg.bus.messages defines the messages, and fedimg.bus.outbox_relay sends them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from fedimg.bus import messages
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI, Disk, RawImage
from fedimg.progress import CheckResult
from fedimg.store import rows
from fedimg.store.amis import OutOfReach
from fedimg.store.store import Store
from fedimg.store.twins import ImageWithdrawn
from fedimg.untrusted.failures import of_endpoint
from fedimg.values.audience import Audience

#: How many lines of a test instance's output are logged; the message on the bus holds more.
_LOGGED_LINES = 30

_log = logging.getLogger(__name__)


class Recorder:
    """Records the events of one run of a job; a repeated event changes nothing.

    Args:
        store: the database.
        image: the job's image.
        run: the number of this run of the job: each run's start, tests and failure are
            announced, while an AMI's registration, copy or publication is announced once.
        origin: the region where the image is written.
    """

    def __init__(self, store: Store, image: RawImage, run: int, origin: str) -> None:
        self._store = store
        self._image = image
        self._run = f"{image.job}:{run}"
        self._origin = origin

    def started(self) -> None:
        """Announce that the run begins in the origin."""
        self._upload("started", self._run, {})

    def lacks_tool(self, ami: str, tool: str) -> None:
        """Record that a utility AMI lacks a tool."""
        self._store.record_lacking_tool(ami, tool)

    def lacking_tools(self, ami: str) -> Collection[str]:
        """Return the tools that a utility AMI is recorded to lack."""
        return self._store.lacking_tools(ami)

    def written(self, disk: Disk) -> None:
        """Record the uncompressed bytes that the run wrote."""
        self._store.record_disk(self._image.job, disk)

    def disk(self) -> Disk | None:
        """Return the recorded uncompressed bytes, of this run or an earlier one."""
        return self._store.disk(self._image.job)

    def registered(self, ami: AMI) -> None:
        """Record and announce an AMI that was registered in the origin; it is private.

        Raises EC2ServiceException for one about which a person has to decide first.
        """
        self._refuse_undecided(ami)
        body = messages.image_upload(self._image, self._origin, "completed", messages.of_ami(ami))
        self._record(ami, messages.UPLOAD, f"completed:{ami.id}", body)

    def copied(self, ami: AMI, source: AMI) -> None:
        """Record and announce an AMI that was copied to a further region; it is private.

        Raises EC2ServiceException for one about which a person has to decide first.
        """
        self._refuse_undecided(ami)
        self._record(ami, messages.COPY, ami.id, messages.image_copy(self._image, ami, source))

    def dropped(self, ami: AMI, reason: str) -> None:
        """Delete the record of an AMI that was removed, and log the reason."""
        self._store.forget_ami(ami.id, ami.region)
        _log.info(
            "%s: removed AMI %s (%s) in region %s: %s",
            self._run,
            ami.id,
            ami.type,
            ami.region,
            reason,
        )

    def test_started(self, ami: AMI) -> None:
        """Record and announce that a test instance boots from an AMI."""
        self._test("started", ami)

    def test_completed(self, ami: AMI, checks: Sequence[CheckResult]) -> None:
        """Record and announce that an AMI passed its boot check."""
        self._test("completed", ami, checks)

    def test_failed(self, ami: AMI, checks: Sequence[CheckResult], output: str) -> None:
        """Record, log and announce that an AMI failed its boot check.

        `output` is the text that the instance printed.
        """
        _log.warning(
            "%s: AMI %s (%s) failed its boot check:%s",
            self._run,
            ami.id,
            ami.type,
            "".join(f"\n    | {line}" for line in output.splitlines()[-_LOGGED_LINES:]),
        )
        self._test("failed", ami, checks, output)

    def publishing(self, region: str, ids: Collection[str]) -> Collection[str]:
        """Record that AMIs and a snapshot of a region are about to become public.

        Return the ids for which this was not recorded before. Raises EC2ServiceException if a
        person took one of the AMIs out of others' reach, or withdrew the image.
        """
        return self._offer(region, ids, "publish", audience=False)

    def sharing(self, region: str, ids: Collection[str]) -> Collection[str]:
        """Record that AMIs and a snapshot of a region are about to be shared with an audience.

        Return the ids for which this was not recorded before. Raises EC2ServiceException as
        `publishing` does, and if one of them is public.
        """
        return self._offer(region, ids, "share", audience=True)

    def _offer(
        self, region: str, ids: Collection[str], step: str, *, audience: bool
    ) -> Collection[str]:
        try:
            return self._store.offer(self._image.job, region, ids, audience=audience)
        except (ImageWithdrawn, OutOfReach) as error:
            raise EC2ServiceException(
                str(error), image=self._image.name, region=region, step=step
            ) from error

    def unpublished(self, region: str, ids: Collection[str]) -> None:
        """Record that AMIs and a snapshot of a region did not become public."""
        self._store.unmark(region, ids)

    def published(self, ami: AMI) -> bool:
        """Record and announce that an AMI and its snapshot are public.

        Return False, and do neither, if somebody took it out of others' reach meanwhile.
        """
        body = messages.image_publish(self._image, ami)
        announcing = self._store.announcing(f"{messages.PUBLISH}:{ami.id}", messages.PUBLISH, body)
        public = self._store.publish_ami(ami, announcing)
        self._store.announcements += public
        return public

    def shared(self, ami: AMI, audience: Audience) -> bool:
        """Record and announce that an AMI and its snapshot are shared with an audience.

        Return False, and do neither, if somebody took it out of others' reach meanwhile.
        """
        if not self._store.share_ami(ami, audience):
            return False
        self._announce(messages.SHARE, ami.id, messages.image_share(self._image, ami, audience))
        return True

    def progress(
        self, region: str, step: str, detail: str = "", error: str | None = None, needs: int = 0
    ) -> None:
        """Record the job's step in a region; `error` is the reason when the region failed.

        `needs` is how many AMIs are to become public in the region, or have no room there.
        """
        self._store.set_region(
            self._image.job, region, step=step, detail=detail, error=error, needs=needs
        )
        if region == self._origin:
            self._store.set_step(self._image.job, step)

    def failed(self, error: Exception) -> None:
        """Announce that the run failed with an error."""
        output, said = "", of_endpoint(error)
        if isinstance(error, EC2ServiceException):
            output, said = error.output, str(error)
        # The reason comes last, because a text that is too long is cut at its beginning.
        text = f"{output}\n{said}" if output else said
        self._upload("failed", self._run, messages.of_failure(text))

    def _refuse_undecided(self, ami: AMI) -> None:
        if self._store.states(ami.region, [ami.id]).get(ami.id) == rows.UNKNOWN:
            raise EC2ServiceException(
                f"AMI {ami.id} was private when the database was rebuilt, and it is not known "
                "whether it may be published: 'fedimg cleanup --remove' removes it and its "
                "snapshot, then 'fedimg retry' makes new ones; 'fedimg accept' and 'fedimg "
                "withdraw' keep it",
                image=self._image.name,
                region=ami.region,
                step="register",
            )

    def _record(self, ami: AMI, topic: str, about: str, body: dict[str, Any]) -> None:
        """Record a private AMI and announce it, by one transaction."""
        announcing = self._store.announcing(f"{topic}:{about}", topic, body)
        self._store.record_ami(self._image, ami, announcing)
        self._store.announcements += 1

    def _upload(self, status: messages.Status, about: str, extra: dict[str, Any]) -> None:
        body = messages.image_upload(self._image, self._origin, status, extra)
        self._announce(messages.UPLOAD, f"{status}:{about}", body)

    def _test(
        self,
        status: messages.Status,
        ami: AMI,
        checks: Sequence[CheckResult] = (),
        output: str | None = None,
    ) -> None:
        body = messages.image_test(self._image, ami, status, checks, output)
        data = body["extra"].get("data", "")
        self._store.set_test(self._image.job, ami, status, map(_redacted, checks), data)
        self._announce(messages.TEST, f"{status}:{ami.id}:{self._run}", body)

    def _announce(self, topic: str, about: str, body: dict[str, Any]) -> None:
        self._store.announce(f"{topic}:{about}", topic, body)


def _redacted(check: CheckResult) -> CheckResult:
    return replace(check, output=messages.without_secrets(check.output))
