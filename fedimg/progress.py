"""What a service tells whoever follows a job; it knows nothing of bus, queue or database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from fedimg.images import AMI

#: The last steps that `progress` tells of a region.
PUBLIC, FAILED = "public", "failed"
#: … of one that was away when all others had ended, and is gone on with when it is back; of one
#: that is away and where the site publishes nothing any more.
AWAY, LEFT_OUT = "away", "left out"


class CheckState(StrEnum):
    """How a check ended: `skipped` is one that the image has nothing for."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class CheckResult:
    """How one check on a test instance went.

    `seconds` is how long it took, `output` the end of what it said, in few words.
    """

    name: str
    state: CheckState
    seconds: float
    output: str = ""

    @property
    def passed(self) -> bool:
        """Whether the image may go on: a check that it has nothing for is not in its way."""
        return self.state is not CheckState.FAILED


class Observer(Protocol):
    """Told at each point of a job. A restarted job tells again what it told before a crash."""

    def started(self) -> None:
        """Work on the image begins in the origin."""

    def registered(self, ami: AMI) -> None:
        """An AMI of the origin is registered; it is private."""

    def copied(self, ami: AMI, source: AMI) -> None:
        """An AMI is available in a further region; it is private."""

    def dropped(self, ami: AMI, reason: str) -> None:
        """An AMI was removed again."""

    def test_started(self, ami: AMI) -> None:
        """A test instance is being booted from this AMI."""

    def test_completed(self, ami: AMI, checks: Sequence[CheckResult]) -> None:
        """It booted and passed."""

    def test_failed(self, ami: AMI, checks: Sequence[CheckResult], output: str) -> None:
        """It did not; `output` is what the instance printed."""

    def publishing(self, region: str, ids: Collection[str]) -> Collection[str]:
        """AMIs and a snapshot of a region are about to become public.

        Those of which this was not told before.
        """

    def unpublished(self, region: str, ids: Collection[str]) -> None:
        """These have never become public after all."""

    def published(self, ami: AMI) -> None:
        """An AMI is public, and so is its snapshot."""

    def progress(self, region: str, step: str, detail: str = "", error: str | None = None) -> None:
        """Where the job stands in a region; with `error`, why it gave up there."""
