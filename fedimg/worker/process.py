"""Run the worker process: queues, outbox relays and background tasks, from start to stop."""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial

from sqlalchemy import event

from fedimg import __version__
from fedimg.aws import regions
from fedimg.aws.client import retrying
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.rate_limit import RateLimit
from fedimg.bus.outbox_relay import OutboxRelay, thread_name
from fedimg.config import Settings
from fedimg.intake.image_selection import Sources
from fedimg.jobs.durable_steps import DurableSteps, Gate
from fedimg.jobs.queue import JobQueue
from fedimg.lifecycle.due_changes import DueChanges
from fedimg.lifecycle.pruning import Pruning
from fedimg.lifecycle.repair_workflow import RepairWorkflow
from fedimg.lifecycle.share import ShareWorkflow
from fedimg.lifecycle.withdraw_and_restore import WithdrawAndRestore
from fedimg.process import systemd
from fedimg.process.abort import end_exhausted, end_with_database, end_without_lease
from fedimg.process.backoff import Backoff
from fedimg.process.periodic import Periodic
from fedimg.process.signals import stop_requested
from fedimg.store.database import Unreachable
from fedimg.store.pending import PendingRows
from fedimg.store.shared_poll import SharedPoll
from fedimg.store.store import Store, StoreError
from fedimg.worker import executor
from fedimg.worker.background_tasks import BackgroundTasks
from fedimg.worker.failover import Failover
from fedimg.worker.intake_workflow import IntakeWorkflow
from fedimg.worker.job_workflows import JobWorkflows
from fedimg.worker.lease import FileLease, Lease
from fedimg.worker.registry import Registry
from fedimg.worker.shared_lease import SharedLease, alive

#: The exit status of a drained worker, which systemd does not restart.
DRAINED = 6
#: Pauses between two attempts to connect to PostgreSQL, and how long a start waits for PostgreSQL
#: in all, in seconds.
_BACKOFF, _DATABASE_SECONDS = Backoff(1.0, 30.0), 3600.0
#: How long the rest of a start takes at most, in seconds.
_STARTING_SECONDS = 60.0
#: How long a stopping worker gives the outbox relays; the next worker sends the remaining messages.
_RELAY_SECONDS = 3.0
#: The age limit of the version that has claimed new runs, as the worker knows it, in seconds.
_CLAIM_AGE_SECONDS = 1.0
#: Interval of the checks for changes of AMIs that are due.
_CHANGES_SECONDS = 1.0
#: How long a stopping worker waits for its background tasks, which may be waiting for Koji.
_BACKGROUND_SECONDS = 0.5

_log = logging.getLogger(__name__)


def run_worker(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT, then exit the process; return 0 if stopped before the start.

    After the first signal, steps in progress have `worker.stop_seconds` to end; a second signal
    exits at once. The next worker continues what is left, also if the process exits with status 1
    because the database fails, the lease is lost, or memory, files or threads run out. A drained
    worker exits with DRAINED after its last job.

    Raises StoreError if the database cannot be used, lacks tables of this version, or holds running
    jobs of an incompatible version; WorkerRunning if another worker has the state directory;
    BusError if the configuration of a bus is wrong.
    """
    stopping = stop_requested()
    store = _open(settings, stopping)
    if store is None:
        return 0
    worker = _Worker(settings, store, _lease(settings, store), stopping)
    worker.start()
    systemd.notify("READY=1")
    systemd.wait(stopping, worker.silent)
    systemd.notify("STOPPING=1")
    status = worker.stop()
    logging.shutdown()
    # A plain exit would wait for the threads of unfinished steps; the next worker repeats these.
    os._exit(status)


class _Worker:
    """The parts of a worker: the queues, the outbox relays and the background tasks."""

    def __init__(
        self, settings: Settings, store: Store, lease: Lease, stopping: threading.Event
    ) -> None:
        store.on_failure(self._end_with_database)
        self._settings = settings
        self._store = store
        self._lease = lease
        self._stopping = stopping
        self._drained = threading.Event()
        self._queue = JobQueue(store)
        self._registry = Registry(store)
        _refuse_incompatible_runs(store, self._queue, self._registry, lease.name)
        self._watchdog = systemd.Watchdog(store.engine, executor.LOOPS)
        self._gate = Gate(end_exhausted)
        self._rate_limit = RateLimit(settings.ec2.limits.calls)
        self._clients = Clients(self._before_call)
        self._jobs = JobWorkflows(
            settings, store, self._queue, self._clients, self._gate, lease.name
        )
        self._intake = IntakeWorkflow(
            settings,
            store,
            self._queue,
            Sources(settings),
            DurableSteps(self._gate),
            self._jobs.stopping,
        )
        self._changes = WithdrawAndRestore(
            settings,
            store,
            self._queue,
            self._clients,
            DurableSteps(self._gate),
            self._jobs.stopping,
        )
        shared = (settings, store, self._clients, DurableSteps(self._gate))
        self._pruning = Pruning(*shared, self._jobs.stopping)
        self._repairs = RepairWorkflow(*shared, self._jobs.stopping)
        self._shares = ShareWorkflow(*shared, self._jobs.stopping)
        self._poll = SharedPoll(self._queue.engine)
        self._pending = PendingRows(self._poll)
        self._due_changes = DueChanges(
            settings, store, self._queue, lambda: self._pending.current().changes
        )
        self._buses = list(dict.fromkeys(settings.bus))
        seconds = settings.announcing.confirm_seconds
        self._relays = [
            OutboxRelay(
                store,
                seconds,
                bus,
                self._buses,
                turn=lease.leads,
                pending=self._messages_pending,
            )
            for bus in self._buses
        ]
        failover = Failover(
            store,
            self._queue,
            self._registry,
            lease,
            self._poll,
            share=self._rate_limit.share,
            stop_runs=self._jobs.stop_runs,
            drain=self._drain,
            claim_new_runs=partial(
                executor.claim_new_runs,
                self._poll.question([self._queue.latest_version()], _CLAIM_AGE_SECONDS),
            ),
        )
        self._background = [
            *BackgroundTasks(
                settings, store, self._queue, self._clients, stopping, lease.name, self._pending
            ).periodic(lease.leads),
            Periodic("starting due changes", self._begin_changes, stopping, lease.leads),
            Periodic("watching the other workers", failover.check_workers, stopping),
        ]

    def start(self) -> None:
        """Start all parts. Raises BusError, and StoreError if the queue's tables are too old."""
        self._registry.enter(self._lease.name, __version__, int(executor.VERSION))
        for relay in self._relays:
            relay.start()
        # boto3 takes seconds to create the first client of a region: done now, it delays no job.
        expected = partial(regions.expected, self._clients, self._settings.ec2)
        retrying.prepare(self._clients, expected)
        at_once = self._settings.ec2.limits.jobs
        executor.serve(
            self._store,
            self._poll,
            self._lease.name,
            self._intake,
            self._jobs,
            self._changes,
            self._pruning,
            self._repairs,
            self._shares,
            at_once,
        )
        for task in self._background:
            task.start()
        threading.Thread(target=self._watch_relays, daemon=True).start()
        _log.info(
            'worker "%s" started (site %s, database %s)',
            self._lease.name,
            self._settings.site,
            self._store.address,
        )

    def silent(self, seconds: float) -> list[str]:
        """Return the names of the threads that have not used the database for `seconds`."""
        return self._watchdog.silent(seconds)

    def stop(self) -> int:
        """Stop all parts within their time limits and release the lease; return the exit status."""
        if self._drained.is_set():
            _log.info('worker "%s" is drained: its last job has ended, exiting', self._lease.name)
            self._stop_relays()
            self._registry.leave(self._lease.name)
        else:
            self._stop_steps(self._settings.worker.stop_seconds)
            self._stop_relays()
        self._lease.release()
        return DRAINED if self._drained.is_set() else 0

    def _stop_steps(self, seconds: float) -> None:
        """Start no more steps, and give those in progress `seconds` to end."""
        _log.info(
            "worker stopping: steps in progress have %g s to end; the next worker continues the "
            "jobs",
            seconds,
        )
        self._gate.close()
        self._jobs.stopping.set()
        executor.stop_taking_runs(seconds)
        if not self._gate.quiet(seconds):
            _log.info("worker stopped with steps unfinished; the next worker repeats these steps")
        for task in self._background:
            task.join(_BACKGROUND_SECONDS)

    def _stop_relays(self) -> None:
        """Stop all outbox relays at the same time, after they have sent what they can."""
        for relay in self._relays:
            relay.tell_to_stop(_RELAY_SECONDS)
        for relay in self._relays:
            relay.stop(_RELAY_SECONDS)

    def _end_with_database(self, error: BaseException) -> None:
        # PostgreSQL also ends the transactions of a worker that was frozen; the lost lease is then
        # the reason to report.
        self._lease.end_if_lost()
        end_with_database(error)

    def _before_call(self, service: str, region: str) -> None:
        if service == "ec2":
            self._rate_limit.wait(region)
        self._lease.end_if_lost()

    def _begin_changes(self) -> float:
        self._due_changes.begin()
        return _CHANGES_SECONDS

    def _messages_pending(self) -> bool:
        pending = self._pending.current().messages
        # A relay that rests reads nothing by itself.
        self._watchdog.see()
        return pending

    def _drain(self) -> None:
        name = self._lease.name
        _log.info('worker "%s" is draining: it takes no new job and exits after its last one', name)
        self._watchdog.excuse(executor.LOOPS)
        executor.finish(self._store, self._poll, self._queue, name, alone=self._alone)
        self._drained.set()
        self._stopping.set()

    def _alone(self) -> bool:
        """Return whether no other worker is running that could clean up after this one."""
        working = [worker.name for worker in self._registry.all() if not worker.draining]
        return not self._store.shared or not alive(self._store.engine, working)

    def _watch_relays(self) -> None:
        # The relays of a worker that does not lead are idle: the watchdog must not miss them.
        self._lease.leads.wait()
        for bus in self._buses:
            self._watchdog.expect(thread_name(bus))


def _open(settings: Settings, stopping: threading.Event) -> Store | None:
    """Open the database as soon as PostgreSQL answers; return None if stopped before.

    Raises StoreError if the database cannot be used, Unreachable if it does not answer for an hour.
    """
    deadline = time.monotonic() + _DATABASE_SECONDS
    tries = 0
    while True:
        tries += 1
        pause = _BACKOFF.pause(tries)
        try:
            if settings.database:
                # Imported here, as it loads libpq, which a worker on a file does not need.
                from fedimg.worker.pooler import refuse_shared_connections

                refuse_shared_connections(settings.database)
            return Store(
                settings.state_directory,
                settings.database,
                idle_seconds=settings.worker.lease_seconds,
            )
        except Unreachable as error:
            if time.monotonic() > deadline:
                raise
            _log.warning("waiting for the database, retries in %g s: %s", pause, error)
        # Otherwise systemd would kill the process after TimeoutStartSec.
        systemd.notify(f"EXTEND_TIMEOUT_USEC={round((pause + _STARTING_SECONDS) * 1e6)}")
        if stopping.wait(pause):
            return None


def _lease(settings: Settings, store: Store) -> Lease:
    """Take the lease of this worker; on PostgreSQL each statement checks it first.

    Raises WorkerRunning or StoreError if there is no lease to have.
    """
    if not store.shared:
        return FileLease(settings.state_directory)
    lease = SharedLease(store.engine.url, settings.worker.lease_seconds, end_without_lease)

    @event.listens_for(store.engine, "before_cursor_execute")
    def end_if_lost(*_arguments: object) -> None:
        # A worker that was frozen must not write about jobs that others have taken over.
        lease.end_if_lost()

    return lease


def _refuse_incompatible_runs(store: Store, queue: JobQueue, registry: Registry, name: str) -> None:
    """Raise StoreError if there are runs that this version cannot continue.

    Runs of other workers that are running do not count; those of an earlier worker `name` do.
    """
    others = [worker.name for worker in registry.all() if worker.name != name]
    living = alive(store.engine, others) if store.shared else ()
    begun = queue.running_of_other_versions(executor.VERSION, living)
    if not store.shared:
        # An earlier start that was refused has put runs back into the queues.
        begun += queue.queued_for_other_versions([executor.VERSION])
    if begun:
        raise StoreError(
            f"cannot start the worker: an incompatible fedimg version started {', '.join(begun)}, "
            "and only that version can finish them; install it again, wait until they have ended "
            "('fedimg status'), then upgrade"
        )
