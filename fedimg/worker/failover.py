"""What workers on one database do for each other, and what one does that is to leave."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

import psycopg

from fedimg.jobs.queue import JobQueue
from fedimg.store.store import Store
from fedimg.worker.lease import Lease
from fedimg.worker.orphans import orphaned_runs, words
from fedimg.worker.registry import RegisteredWorker, Registry
from fedimg.worker.shared_lease import alive, connect, try_lock, worker_key

#: Between two looks, in seconds.
_PAUSE = 0.5

_log = logging.getLogger(__name__)


class Failover:
    """Looks, again and again, after the other workers, and at what is asked of this one.

    Args:
        share: told how many workers live.
        stop_revoked_runs: breaks off the runs here that another worker has to clean up behind.
        drain: told once that this worker is to take no new job; called in a thread of its own.
        take: has those of this one's version take what is new, and tells whether they do; called
            at each look while no worker that takes jobs knows newer steps.
    """

    def __init__(
        self,
        store: Store,
        queue: JobQueue,
        registry: Registry,
        lease: Lease,
        *,
        share: Callable[[int], object],
        stop_revoked_runs: Callable[[], object],
        drain: Callable[[], object],
        take: Callable[[], bool],
    ) -> None:
        self._store = store
        self._queue = queue
        self._registry = registry
        self._lease = lease
        self._share = share
        self._stop_revoked_runs = stop_revoked_runs
        self._drain = drain
        self._take = take
        self._draining = False
        self._taken = True
        self._living: list[RegisteredWorker] | None = None

    def look(self) -> float:
        """Look once; the seconds until the next time."""
        self._stop_revoked_runs()
        workers = self._registry.all()
        if not self._draining and any(
            each.draining for each in workers if each.name == self._lease.name
        ):
            self._draining = True
            threading.Thread(target=self._drain, name="draining", daemon=True).start()
        if self._store.shared:
            names = [worker.name for worker in workers]
            living = alive(self._store.engine, names)
            self._share(len(living))
            for name in names:
                if name not in living:
                    self._take_over(name)
            workers = [worker for worker in workers if worker.name in living]
        self._look_for_steps([replace(worker, jobs=[]) for worker in workers])
        return _PAUSE

    def _look_for_steps(self, living: list[RegisteredWorker]) -> None:
        """See who takes what is new, and, when others have come or gone, what nobody takes."""
        taking = {worker.name: worker.knows for worker in living if not worker.draining}
        if self._lease.name not in taking:
            return
        if taking[self._lease.name] == max(taking.values()):
            self._take_what_is_new()
        if living == self._living:
            return
        if left := orphaned_runs(self._queue, living):
            _log.error("%s", words(left))
        self._living = living

    def _take_what_is_new(self) -> None:
        before, self._taken = self._taken, self._take()
        if before and not self._taken:
            _log.error(
                "nobody takes new jobs: they are left to workers of another version, whose time "
                "lies ahead, as a clock was wrong; set the clocks right, and start one of these or "
                "wait until then"
            )

    def _take_over(self, name: str) -> None:
        """Put back into the queues what a dead worker had in its hands."""
        try:
            with connect(self._store.engine.url, "fedimg take-over") as connection:
                # Held meanwhile: nobody else does the same, and nobody starts under that name.
                if try_lock(connection, worker_key(name)):
                    self._requeue(name)
        except psycopg.Error as error:
            _log.warning("cannot take over from worker %s: %s", name, str(error).strip())

    def _requeue(self, name: str) -> None:
        # First the runs: a job that begins anew writes down who has it.
        self._registry.drop_runs(name)
        if taken := self._queue.requeue(name):
            _log.warning("worker %s is gone; back in the queues: %s", name, ", ".join(taken))
        self._registry.leave(name)
