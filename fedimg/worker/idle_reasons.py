"""What a person should know of jobs that no worker goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from fedimg.store.rows import JobRow
from fedimg.store.store import Store
from fedimg.worker import lease
from fedimg.worker.registry import Registry


def idle_reasons(store: Store, live: Sequence[JobRow] = ()) -> list[str]:
    """Why nothing happens, a sentence each: no worker runs, or none knows a live job's steps."""
    workers = Registry(store).all()
    names = [each.name for each in workers] if store.shared else [lease.ALONE]
    running = lease.living(store, names)
    if not running:
        return ["no worker is running here; jobs wait until 'fedimg worker' is started"]
    living = [each for each in workers if each.name in running]
    at_work = {job for each in living for job, _ in each.jobs}
    if all(row.state == "queued" or row.job in at_work for row in live):
        return []
    # Slow to import, and seldom needed.
    from fedimg.jobs.queue import JobQueue
    from fedimg.worker.orphans import orphaned_runs, words

    with closing(JobQueue(store)) as queue:
        left = orphaned_runs(queue, living)
    return [words(left)] if left else []
