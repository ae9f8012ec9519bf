"""The worker: a process that serves the queues, announces, and stops when it is told to."""

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
from fedimg.intake.resolve import Sources
from fedimg.jobs.durable_steps import Gate
from fedimg.jobs.queue import JobQueue
from fedimg.process import systemd
from fedimg.process.abort import end_exhausted, end_with_database, end_without_lease
from fedimg.process.periodic import Periodic
from fedimg.process.signals import stop_requested
from fedimg.store.database import Unreachable
from fedimg.store.store import Store, StoreError
from fedimg.worker import executor
from fedimg.worker.background_tasks import background_tasks
from fedimg.worker.failover import Failover
from fedimg.worker.lease import FileLease, Lease
from fedimg.worker.registry import Registry
from fedimg.worker.shared_lease import SharedLease, alive
from fedimg.worker.workflows import Workflows

#: The exit status of a worker that was drained, which is not to be started again by itself.
DRAINED = 6
#: The longest pause, in seconds, before a PostgreSQL that does not answer is tried again, and how
#: long in all.
_LONGEST_PAUSE, _PATIENCE = 30.0, 3600.0
#: What else a start takes, in seconds.
_STARTING_SECONDS = 60.0
#: How long announcements may take to leave when the worker stops; the others leave later.
_ANNOUNCING_SECONDS = 3.0
#: … and what is done beside the queues, which may be waiting for Koji, to end.
_BESIDE_SECONDS = 0.5

_log = logging.getLogger(__name__)


def run_worker(settings: Settings) -> int:
    """Work until SIGTERM or SIGINT; the exit status.

    Steps under way then may end within `worker.stop_seconds`, unless told a second time; whatever
    is left the next worker takes up. So it does when the database fails or the process runs out of
    memory, files or threads, or has lost its lease; the exit status is 1 then. It is DRAINED behind
    the last job of a worker that was drained.
    Raises StoreError when the state directory cannot be used or holds work in flight of a version
    with other steps, or the queue's tables are an older version's; WorkerRunning when it is in use,
    BusError when a bus's configuration does not lead to it.
    """
    stopping = stop_requested()
    store = _opened(settings, stopping)
    if store is None:
        return 0
    worker = _Worker(settings, store, _lease(settings, store), stopping)
    worker.start()
    systemd.notify("READY=1")
    systemd.wait(stopping, worker.silent)
    systemd.notify("STOPPING=1")
    status = worker.stop()
    logging.shutdown()
    # Steps in flight would otherwise hold the process for as long as EC2 takes; the queue knows
    # where they were.
    os._exit(status)


class _Worker:
    """What runs in the process: the queues, the messengers, and what is done beside them."""

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
        _refuse_other_steps(store, self._queue, self._registry, lease.name)
        self._watchdog = systemd.Watchdog(store.engine, executor.LOOPS)
        self._gate = Gate(end_exhausted)
        self._rate_limit = RateLimit(settings.ec2.limits.calls)
        self._clients = Clients(self._before_call)
        self._workflows = Workflows(
            settings,
            store,
            self._queue,
            self._clients,
            Sources(settings),
            self._gate,
            lease.name,
        )
        self._buses = list(dict.fromkeys(settings.bus))
        seconds = settings.announcing.confirm_seconds
        self._relays = [
            OutboxRelay(store, seconds, bus, self._buses, turn=lease.leads) for bus in self._buses
        ]
        failover = Failover(
            store,
            self._queue,
            self._registry,
            lease,
            share=self._rate_limit.share,
            stop_revoked_runs=self._workflows.stop_revoked_runs,
            drain=self._drain,
            take=executor.take_what_is_new,
        )
        self._background = [
            *background_tasks(settings, store, self._queue, self._clients, stopping, lease.leads),
            Periodic("looking at the other workers", failover.look, stopping),
        ]

    def start(self) -> None:
        """Begin with everything. Raises BusError, and StoreError for older tables of the queue."""
        self._registry.enter(self._lease.name, __version__, int(executor.VERSION))
        for relay in self._relays:
            relay.start()
        # The first client takes long to make, and all a while; no job is to wait for that.
        expected = partial(regions.expected, self._clients, self._settings.ec2)
        retrying.prepare(self._clients, expected)
        at_once = self._settings.ec2.limits.jobs
        executor.serve(self._store, self._lease.name, self._workflows, at_once)
        for each in self._background:
            each.start()
        threading.Thread(target=self._expect_announcing, daemon=True).start()
        _log.info(
            "worker %s of site %s started on %s",
            self._lease.name,
            self._settings.site,
            self._store.place,
        )

    def silent(self, seconds: float) -> list[str]:
        """What has not moved for so long, and should have."""
        return self._watchdog.silent(seconds)

    def stop(self) -> int:
        """Let what is under way end, within its time, and let go; the exit status."""
        if self._drained.is_set():
            _log.info("worker %s has no job any more, and ends", self._lease.name)
            self._stop_announcing()
            self._registry.leave(self._lease.name)
        else:
            self._break_off(self._settings.worker.stop_seconds)
            self._stop_announcing()
        self._lease.release()
        return DRAINED if self._drained.is_set() else 0

    def _break_off(self, seconds: float) -> None:
        """Begin no step any more, and let those end that have begun."""
        _log.info(
            "worker stopping: steps under way may end within %g s; what is left goes on when it is "
            "started again",
            seconds,
        )
        self._gate.close()
        self._workflows.stopping.set()
        executor.take_no_more(seconds)
        if not self._gate.quiet(seconds):
            _log.info("worker stopped in the middle of steps, which are begun again")
        for each in self._background:
            each.join(_BESIDE_SECONDS)

    def _stop_announcing(self) -> None:
        """Let all messengers send what they can, at the same time."""
        for relay in self._relays:
            relay.tell_to_stop(_ANNOUNCING_SECONDS)
        for relay in self._relays:
            relay.stop(_ANNOUNCING_SECONDS)

    def _end_with_database(self, error: BaseException) -> None:
        # Of a worker that stood still PostgreSQL has ended the transactions, too: that is not the
        # reason to tell.
        self._lease.check()
        end_with_database(error)

    def _before_call(self, service: str, region: str) -> None:
        if service == "ec2":
            self._rate_limit.wait(region)
        self._lease.check()

    def _drain(self) -> None:
        name = self._lease.name
        _log.info("worker %s is drained: it takes no new job, and ends behind those it has", name)
        self._watchdog.excuse(executor.LOOPS)
        executor.finish(self._store, self._queue, name, alone=self._alone)
        self._drained.set()
        self._stopping.set()

    def _alone(self) -> bool:
        """Whether no other worker takes what this one leaves."""
        working = [worker.name for worker in self._registry.all() if not worker.draining]
        return not self._store.shared or not alive(self._store.engine, working)

    def _expect_announcing(self) -> None:
        # Of several workers the others' messengers wait for their turn.
        self._lease.leads.wait()
        for bus in self._buses:
            self._watchdog.expect(thread_name(bus))


def _opened(settings: Settings, stopping: threading.Event) -> Store | None:
    """The database, as soon as a PostgreSQL answers; None when told to stop before."""
    deadline = time.monotonic() + _PATIENCE
    pause = 1.0
    while True:
        try:
            if settings.database:
                # Loads libpq, which a worker on a file has no use for.
                from fedimg.worker.pooler import refuse_shared_connections

                refuse_shared_connections(settings.database)
            return Store(
                settings.state_directory,
                settings.database,
                still_seconds=settings.worker.lease_seconds,
            )
        except Unreachable as error:
            if time.monotonic() > deadline:
                raise
            _log.warning("waiting for the database, tried again in %g s: %s", pause, error)
        # systemd would take it for a start that hangs.
        systemd.notify(f"EXTEND_TIMEOUT_USEC={round((pause + _STARTING_SECONDS) * 1e6)}")
        if stopping.wait(pause):
            return None
        pause = min(pause * 2, _LONGEST_PAUSE)


def _lease(settings: Settings, store: Store) -> Lease:
    """This worker's right to work, which each use of the database checks."""
    if not store.shared:
        return FileLease(settings.state_directory)
    lease = SharedLease(store.engine.url, settings.worker.lease_seconds, end_without_lease)

    @event.listens_for(store.engine, "before_cursor_execute")
    def check(*_of_it: object) -> None:
        # Whoever stood still meanwhile must write nothing about jobs that others have by now.
        lease.check()

    return lease


def _refuse_other_steps(store: Store, queue: JobQueue, registry: Registry, name: str) -> None:
    """Raise StoreError when there is work that this version's steps cannot go on with.

    What other workers that live have is theirs; what an earlier one of this `name` had is nobody's.
    """
    others = [worker.name for worker in registry.all() if worker.name != name]
    living = alive(store.engine, others) if store.shared else ()
    begun = queue.begun_otherwise(executor.VERSION, living)
    if not store.shared:
        # What a start that came to nothing had put back; nobody else will take it.
        begun += queue.left_to_others([executor.VERSION])
    if begun:
        raise StoreError(
            f"in flight are {', '.join(begun)}, begun by a version of fedimg whose steps were "
            "others; install that one again, let them end ('fedimg status'), then upgrade"
        )
