"""Find orphans: queued runs that only a worker of another version of the steps can continue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedimg.jobs.queue import JobQueue
from fedimg.worker.registry import RegisteredWorker


def orphaned_runs(queue: JobQueue, living: Iterable[RegisteredWorker]) -> list[str]:
    """Return the ids of the queued workflows that none of these workers continues."""
    return queue.queued_for_other_versions(
        {str(each.knows) for each in living if not each.draining}
    )


def orphans_text(workflows: Sequence[str]) -> str:
    """Return the message about orphans, given the ids of their workflows."""
    return (
        f"{', '.join(workflows)} were started by an incompatible fedimg version and need a worker "
        "of that version to finish: start one until they have ended"
    )
