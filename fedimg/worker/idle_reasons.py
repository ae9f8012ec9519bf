"""Find out why no worker continues the active jobs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from fedimg.store.rows import JobRow
from fedimg.store.store import Store
from fedimg.worker import lease
from fedimg.worker.registry import Registry


def idle_reasons(store: Store, active: Sequence[JobRow] = ()) -> list[str]:
    """Return the reasons, a sentence each; empty if all is well.

    Either no worker is running, or none has the version of the steps that an active job needs.
    """
    workers = Registry(store).all()
    names = [each.name for each in workers] if store.shared else [lease.ALONE]
    running = lease.living(store, names)
    if not running:
        return [
            "no worker is running: jobs wait until 'fedimg worker' is started "
            "('systemctl start fedimg-worker')"
        ]
    living = [each for each in workers if each.name in running]
    at_work = {job for each in living for job, _ in each.jobs}
    if all(row.state == "queued" or row.job in at_work for row in active):
        return []
    # Imported here, as it loads DBOS, which takes long.
    from fedimg.jobs.queue import JobQueue
    from fedimg.worker.orphans import orphaned_runs, orphans_text

    with closing(JobQueue(store)) as queue:
        orphans = orphaned_runs(queue, living)
    return [orphans_text(orphans)] if orphans else []
