"""What waits for a worker that knows its steps, while those that live know others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedimg.jobs.queue import JobQueue
from fedimg.worker.registry import RegisteredWorker


def orphaned_runs(queue: JobQueue, living: Iterable[RegisteredWorker]) -> list[str]:
    """The workflows in the queues that none of these workers takes."""
    return queue.left_to_others({str(each.knows) for each in living if not each.draining})


def words(left: Sequence[str]) -> str:
    """What a person is told of them."""
    return (
        f"{', '.join(left)} were begun by a version of fedimg whose steps are others, and wait for "
        "a worker of that one: install it again, and let them end"
    )
