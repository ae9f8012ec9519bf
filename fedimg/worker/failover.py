"""Take over the jobs of dead workers, and obey requests to drain or to stop a run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import psycopg
import sqlalchemy as sa

from fedimg.jobs.queue import JobQueue
from fedimg.store.shared_poll import SharedPoll
from fedimg.store.store import Store
from fedimg.untrusted.failures import reason
from fedimg.worker.lease import Lease
from fedimg.worker.orphans import orphaned_runs, orphans_text
from fedimg.worker.registry import RegisteredWorker, Registry
from fedimg.worker.shared_lease import alive_in, connect, held_locks, try_lock, worker_key

#: Polling interval of the registry, in seconds.
_PAUSE = 1.0
#: Interval of the claims of new runs while the same workers run, in seconds: a worker registers its
#: version a moment after itself.
_CLAIM_SECONDS = 2.0

_log = logging.getLogger(__name__)


class Failover:
    """Watch the other workers, and the requests to this one, in the database.

    Args:
        poll: asks the database for signs of a change, along with what other threads poll.
        share: receives the number of running workers.
        stop_runs: stops runs of this worker that another one has to clean up after.
        drain: called once, in a thread of its own, when this worker has to be drained.
        claim_new_runs: assigns new runs to workers of this version and returns whether that
            worked; called at intervals while no running worker has a newer version of the steps.
    """

    def __init__(
        self,
        store: Store,
        queue: JobQueue,
        registry: Registry,
        lease: Lease,
        poll: SharedPoll,
        *,
        share: Callable[[int], object],
        stop_runs: Callable[[Iterable[tuple[str, int]]], object],
        drain: Callable[[], object],
        claim_new_runs: Callable[[], bool],
    ) -> None:
        self._store = store
        self._queue = queue
        self._registry = registry
        self._lease = lease
        self._signs = poll.question(self._columns(), _PAUSE / 2)
        self._share = share
        self._stop_runs = stop_runs
        self._drain = drain
        self._claim_new_runs = claim_new_runs
        self._draining = False
        self._claimed = True
        self._claim_at = 0.0
        self._living: list[RegisteredWorker] | None = None
        self._seen: tuple[Any, ...] | None = None
        self._workers: tuple[list[RegisteredWorker], set[str]] = ([], set())

    def check_workers(self) -> float:
        """Check all workers once, and act; return the seconds until the next call."""
        workers, living = self._current()
        for own in workers:
            if own.name == self._lease.name:
                self._obey(own)
        if self._store.shared:
            names = [worker.name for worker in workers]
            self._share(len(living))
            for name in names:
                if name not in living:
                    self._take_over(name)
            workers = [worker for worker in workers if worker.name in living]
        self._compare_versions([replace(worker, jobs=[], to_stop=[]) for worker in workers])
        return _PAUSE

    def _columns(self) -> list[sa.ColumnElement[Any]]:
        """Return columns that change with the workers, and at last whether a run is to stop."""
        columns = self._registry.signs()
        if self._store.shared:
            columns.append(held_locks())
        return [*columns, self._registry.stops(self._lease.name)]

    def _current(self) -> tuple[list[RegisteredWorker], set[str]]:
        """Return the registered workers, and the names of those that run, on a PostgreSQL.

        They are read anew if there is a sign of a change.
        """
        signs = self._signs.answer()
        if signs != self._seen or signs[-1]:
            self._workers, self._seen = self._read(), signs
        return self._workers

    def _read(self) -> tuple[list[RegisteredWorker], set[str]]:
        with self._store.engine.connect() as connection:
            workers = self._registry.all_in(connection)
            if not self._store.shared:
                return workers, set()
            # After the rows: a worker takes its lock first, so one that is read here has it.
            return workers, alive_in(connection, [worker.name for worker in workers])

    def _obey(self, own: RegisteredWorker) -> None:
        """Stop the runs that this worker has to stop, and drain it if that is requested."""
        self._stop_runs(own.to_stop)
        if own.draining and not self._draining:
            self._draining = True
            threading.Thread(target=self._drain, name="draining", daemon=True).start()

    def _compare_versions(self, living: list[RegisteredWorker]) -> None:
        """Claim new runs for the newest version; report orphans when the set of workers changes."""
        taking = {worker.name: worker.knows for worker in living if not worker.draining}
        if self._lease.name not in taking:
            return
        newest = taking[self._lease.name] == max(taking.values())
        if newest and (living != self._living or time.monotonic() >= self._claim_at):
            self._claim_at = time.monotonic() + _CLAIM_SECONDS
            self._claim()
        if living == self._living:
            return
        if orphans := orphaned_runs(self._queue, living):
            _log.error("%s", orphans_text(orphans))
        self._living = living

    def _claim(self) -> None:
        before, self._claimed = self._claimed, self._claim_new_runs()
        if before and not self._claimed:
            _log.error(
                "no worker takes new jobs: a worker of another fedimg version, whose clock was "
                "ahead, has claimed them; correct the clocks, then start a worker of that version "
                "or wait until the clocks have passed the time at which it started"
            )

    def _take_over(self, name: str) -> None:
        """Put the runs of a dead worker back into the queues."""
        try:
            with connect(self._store.engine.url, "fedimg take-over") as connection:
                # The lock keeps others from doing the same, and from starting under that name.
                if try_lock(connection, worker_key(name)):
                    self._requeue(name)
        except psycopg.Error as error:
            _log.warning(
                "cannot take over the jobs of worker %s, retries in %g s: %s",
                name,
                _PAUSE,
                reason(error),
            )

    def _requeue(self, name: str) -> None:
        # Before requeueing, as a worker that starts a run again registers it.
        self._registry.drop_runs(name)
        if requeued := self._queue.requeue(name):
            _log.warning(
                "worker %s has died; put back into the queues: %s", name, ", ".join(requeued)
            )
        self._registry.leave(name)
        self._signs.outdate()
