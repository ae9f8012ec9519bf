"""What a job tells, kept: its AMIs and progress in the store, its announcements in the outbox.

How a message looks is in fedimg.bus.messages, how it leaves the outbox in fedimg.bus.outbox_relay.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from fedimg.bus import messages
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI, RawImage
from fedimg.progress import CheckResult
from fedimg.store.store import Store

#: How much of what a test instance printed goes to the log; the rest is on the bus.
_LOGGED_LINES = 30

_log = logging.getLogger(__name__)


class Recorder:
    """The observer of one run of a job; telling it something again changes nothing.

    Args:
        store: where all is kept.
        image: the job's.
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
        """Work on the image begins in the origin."""
        self._upload("started", self._run, {})

    def registered(self, ami: AMI) -> None:
        """An AMI of the origin is registered; it is private."""
        self._store.record_ami(self._image, ami)
        self._upload("completed", ami.id, messages.of_ami(ami))

    def copied(self, ami: AMI, source: AMI) -> None:
        """An AMI is available in a further region; it is private."""
        self._store.record_ami(self._image, ami)
        self._announce(messages.COPY, ami.id, messages.image_copy(self._image, ami, source))

    def dropped(self, ami: AMI, reason: str) -> None:
        """An AMI was removed again."""
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
        """A test instance is being booted from this AMI."""
        self._test("started", ami)

    def test_completed(self, ami: AMI, checks: Sequence[CheckResult]) -> None:
        """It booted and passed."""
        self._test("completed", ami, checks)

    def test_failed(self, ami: AMI, checks: Sequence[CheckResult], output: str) -> None:
        """It did not; `output` is what the instance printed."""
        _log.warning(
            "%s: AMI %s (%s) failed its boot check:%s",
            self._run,
            ami.id,
            ami.type,
            "".join(f"\n    | {line}" for line in output.splitlines()[-_LOGGED_LINES:]),
        )
        self._test("failed", ami, checks, output)

    def publishing(self, region: str, ids: Collection[str]) -> Collection[str]:
        """AMIs and a snapshot of a region are about to become public.

        Those of which this was not told before.
        """
        return self._store.offer(self._image.job, region, ids)

    def unpublished(self, region: str, ids: Collection[str]) -> None:
        """These have never become public after all."""
        self._store.withdraw(region, ids)

    def published(self, ami: AMI) -> None:
        """An AMI is public, and so is its snapshot."""
        self._store.publish_ami(ami)
        self._announce(messages.PUBLISH, ami.id, messages.image_publish(self._image, ami))

    def progress(self, region: str, step: str, detail: str = "", error: str | None = None) -> None:
        """Where the job stands in a region; with `error`, why it gave up there."""
        self._store.set_region(self._image.job, region, step=step, detail=detail, error=error)
        if region == self._origin:
            self._store.set_step(self._image.job, step)

    def failed(self, error: Exception) -> None:
        """The run ended with this."""
        output = error.output if isinstance(error, EC2ServiceException) else ""
        # The reason comes last: what is too long loses its beginning.
        text = f"{output}\n{error}" if output else str(error) or type(error).__name__
        self._upload("failed", self._run, messages.of_failure(text))

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
        said = body["extra"].get("data", "")
        self._store.set_test(self._image.job, ami, status, map(_shown, checks), said)
        self._announce(messages.TEST, f"{status}:{ami.id}:{self._run}", body)

    def _announce(self, topic: str, about: str, body: dict[str, Any]) -> None:
        self._store.announce(f"{topic}:{about}", topic, body)


def _shown(check: CheckResult) -> CheckResult:
    return replace(check, output=messages.without_secrets(check.output))
