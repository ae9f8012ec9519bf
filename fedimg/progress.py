"""Define the observer to which a service reports a job's progress, and the results of checks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI, Disk
from fedimg.values.audience import Audience

#: The last steps of a region that ended.
PUBLIC, FAILED = "public", "failed"
#: … and of one whose AMIs are private, and shared with their audience, if they have one.
SHARED = "shared"
#: The last steps of a region in which everything was done.
DONE = (PUBLIC, SHARED)
#: The last step of a region that fails again until a person has corrected the cause.
FAILED_FOR_GOOD = "failed for good"
#: The last step of a region that did not answer when all others had ended; the job continues there
#: when the region answers again.
AWAY = "away"
#: The last step of a region that does not answer, and where the site no longer publishes.
LEFT_OUT = "left out"
#: The last step of a region whose quota has no room for the job's public AMIs, by its figures or by
#: EC2's word alone; what is copied is kept, and the job continues there.
NO_ROOM, OVER_QUOTA = "no room", "over quota"
#: The last steps of a region in which the job continues by itself.
CONTINUED = (AWAY, NO_ROOM, OVER_QUOTA)
#: The last step of a rehearsal, after which nothing is public.
REHEARSED = "rehearsed"
#: The step of a region that would be published but for the operator's hold.
HELD = "held"


def last_step(error: EC2ServiceException) -> str:
    """Return the last step of a region that failed with this error."""
    if error.away:
        return AWAY
    if error.no_room:
        return NO_ROOM
    if error.over_quota:
        return OVER_QUOTA
    return FAILED if error.may_pass else FAILED_FOR_GOOD


class CheckState(StrEnum):
    """The result of a check; it is `skipped` if it does not apply to the image."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class CheckResult:
    """The result of one check on a test instance.

    `seconds` is its duration, `output` the end of its output, shortened.
    """

    name: str
    state: CheckState
    seconds: float
    output: str = ""

    @property
    def passed(self) -> bool:
        """Return whether the image may be published: a skipped check does not prevent it."""
        return self.state is not CheckState.FAILED


class Observer(Protocol):
    """Receives the events of a job. A restarted job repeats the events from before a crash."""

    def started(self) -> None:
        """Note that work on the image begins in the origin region."""

    def lacks_tool(self, ami: str, tool: str) -> None:
        """Note that a utility AMI lacks a tool, so that it can unpack no image of some format."""

    def lacking_tools(self, ami: str) -> Collection[str]:
        """Return the tools that a utility AMI is known to lack."""

    def written(self, disk: Disk) -> None:
        """Note which uncompressed bytes were written; their snapshot may not exist yet."""

    def disk(self) -> Disk | None:
        """Return the uncompressed bytes that this run or an earlier one wrote, if known."""

    def registered(self, ami: AMI) -> None:
        """Note that an AMI is registered in the origin region; it is private."""

    def copied(self, ami: AMI, source: AMI) -> None:
        """Note that an AMI, copied from `source`, is available in another region; it is private."""

    def dropped(self, ami: AMI, reason: str) -> None:
        """Note that an AMI was removed, for `reason`."""

    def test_started(self, ami: AMI) -> None:
        """Note that a test instance is being booted from an AMI."""

    def test_completed(self, ami: AMI, checks: Sequence[CheckResult]) -> None:
        """Note that the test instance booted and passed its checks."""

    def test_failed(self, ami: AMI, checks: Sequence[CheckResult], output: str) -> None:
        """Note that the boot or a check failed; `output` is the instance's output."""

    def publishing(self, region: str, ids: Collection[str]) -> Collection[str]:
        """Note that AMIs and a snapshot of a region are about to become public.

        Returns those ids for which this is the first call.
        """

    def unpublished(self, region: str, ids: Collection[str]) -> None:
        """Note that AMIs and a snapshot of a region did not become public after all."""

    def published(self, ami: AMI) -> bool:
        """Note that an AMI and its snapshot are public; return False if it must not be."""

    def sharing(self, region: str, ids: Collection[str]) -> Collection[str]:
        """Note that AMIs and a snapshot of a region are about to be shared with an audience.

        Returns those ids for which this is the first call.
        """

    def shared(self, ami: AMI, audience: Audience) -> bool:
        """Note that an AMI and its snapshot are shared; return False if it must not be."""

    def progress(
        self, region: str, step: str, detail: str = "", error: str | None = None, needs: int = 0
    ) -> None:
        """Note the step of the job in a region; with `error`, why the job failed there.

        `needs` is how many AMIs are to become public in the region, or have no room there.
        """
