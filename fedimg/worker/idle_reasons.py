"""What a person should know of jobs that no worker goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from fedimg.store.rows import JobRow
from fedimg.store.store import Store
from fedimg.worker import lease
from fedimg.worker.registry import Members


def unattended(store: Store, live: Sequence[JobRow] = ()) -> list[str]:
    """Why nothing happens, a sentence each: no worker runs, or none knows a live job's steps."""
    members = Members(store).all()
    names = [each.name for each in members] if store.shared else [lease.ALONE]
    running = lease.living(store, names)
    if not running:
        return ["no worker is running here; jobs wait until 'fedimg worker' is started"]
    living = [each for each in members if each.name in running]
    at_work = {job for each in living for job, _ in each.jobs}
    if all(row.state == "queued" or row.job in at_work for row in live):
        return []
    # Slow to import, and seldom needed.
    from fedimg.jobs.queue import Jobs
    from fedimg.worker.orphans import left_behind, words

    with closing(Jobs(store)) as queue:
        left = left_behind(queue, living)
    return [words(left)] if left else []
