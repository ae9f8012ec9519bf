"""The worker: the process that serves the queues, announces, and stops when it is told to."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType

from dbos import DBOS
from dbos import error as queue_error
from sqlalchemy import event

from fedimg import __version__, jobs, watchdog
from fedimg.aws import patience
from fedimg.aws.clients import Clients
from fedimg.aws.throttle import Throttle
from fedimg.config import Settings
from fedimg.database import Unreachable
from fedimg.ending import end_exhausted, end_with_database, end_without_lease
from fedimg.fellows import Fellows
from fedimg.intake import Sources
from fedimg.jobs import Jobs
from fedimg.lease import FileLease, Lease
from fedimg.members import Members
from fedimg.messenger import Messenger, thread_name
from fedimg.periodic import Periodic, beside
from fedimg.shared_lease import SharedLease, alive
from fedimg.steps import Gate
from fedimg.store import Store, StoreError
from fedimg.uploader import Uploader

#: Jobs of one version are taken on by any worker that says the same; raise it when a change of
#: the steps leaves running jobs behind, and only then: the worker refuses to start on those.
VERSION = "1"
#: The exit status of a worker that was drained, which is not to be started again by itself.
DRAINED = 6
#: Entries that wait for Koji at the same time.
_ENTRIES = 20
#: Jobs that are cleaned up at the same time.
_CLEAN_UPS = 10
_POLL_SECONDS = 0.25
#: The longest pause, in seconds, before a PostgreSQL that does not answer is tried again, and how
#: long in all.
_LONGEST_PAUSE, _PATIENCE = 30.0, 3600.0
#: What else a start takes, in seconds.
_STARTING_SECONDS = 60.0
#: How long a drained worker's jobs may take: as long as they do.
_DRAIN_SECONDS = 30 * 86400
#: How long announcements may take to leave when the worker stops; the others leave later.
_ANNOUNCING_SECONDS = 3.0
#: … and what is done beside the queues, which may be waiting for Koji, to end.
_BESIDE_SECONDS = 0.5
#: The queue's threads, by its own names, without which a worker does nothing.
_LOOPS = [f"queue-worker-{name}" for name in (jobs.INTAKE_QUEUE, jobs.JOBS_QUEUE, jobs.CLEAN_QUEUE)]

_log = logging.getLogger(__name__)


def run_worker(settings: Settings) -> int:
    """Work until SIGTERM or SIGINT; the exit status.

    Steps under way then may end within `worker.stop_seconds`, unless told a second time; whatever
    is left the next worker takes up. So it does when the database fails or the process runs out of
    memory, files or threads, or has lost its lease; the exit status is 1 then. It is DRAINED behind
    the last job of a worker that was drained.
    Raises StoreError when the state directory cannot be used or holds work in flight of a version
    with other steps, WorkerRunning when it is in use, BusError when a bus's configuration
    does not lead to it.
    """
    told = _told_to_stop()
    store = _opened(settings, told)
    if store is None:
        return 0
    lease = _lease(settings, store)
    store.on_failure(end_with_database)
    queue = Jobs(store)
    members = Members(store)
    _refuse_other_steps(store, queue, members)
    members.enter(lease.name, __version__)
    buses = list(dict.fromkeys(settings.bus))
    pulse = watchdog.Pulse(store.engine, _LOOPS)
    messengers = [
        Messenger(store, settings.announcing.confirm_seconds, bus, buses, turn=lease.leads)
        for bus in buses
    ]
    for messenger in messengers:
        messenger.start()
    gate = Gate(end_exhausted)
    throttle = Throttle(settings.ec2.limits.calls)

    def before_call(service: str, region: str) -> None:
        if service == "ec2":
            throttle.wait(region)
        lease.check()

    clients = Clients(before_call)
    # The first takes long to make, and no job is to wait for that.
    patience.prepare(clients, [settings.ec2.origin])
    uploader = Uploader(settings, store, queue, clients, Sources(settings), gate, lease.name)
    _launch(store, lease.name, uploader, settings.ec2.limits.jobs)
    drained = threading.Event()

    def drain() -> None:
        _log.info(
            "worker %s is drained: it takes no new job, and ends behind those it has", lease.name
        )
        pulse.excuse(_LOOPS)
        _finish(store, queue, lease.name, alone=lambda: _alone(store, members))
        drained.set()
        told.set()

    def expect_announcing() -> None:
        lease.leads.wait()
        for bus in buses:
            pulse.expect(thread_name(bus))

    fellows = Fellows(
        store, queue, members, lease, share=throttle.share, heed=uploader.heed, drain=drain
    )
    at_intervals = beside(settings, store, queue, told, lease.leads)
    at_intervals.append(Periodic("looking at the other workers", fellows.look, told))
    for each in at_intervals:
        each.start()
    threading.Thread(target=expect_announcing, daemon=True).start()
    _log.info("worker %s of site %s started on %s", lease.name, settings.site, store.place)
    watchdog.notify("READY=1")
    watchdog.wait(told, pulse.silent)
    watchdog.notify("STOPPING=1")
    if drained.is_set():
        _log.info("worker %s has no job any more, and ends", lease.name)
        _stop_announcing(messengers)
        members.leave(lease.name)
        lease.release()
        logging.shutdown()
        os._exit(DRAINED)
    _log.info(
        "worker stopping: steps under way may end within %g s; what is left goes on when it is "
        "started again",
        settings.worker.stop_seconds,
    )
    gate.close()
    uploader.stopping.set()
    # It takes nothing from the queues from now on. It would also wait for whole jobs, though; so
    # it is left to itself, and the steps are waited for here.
    seconds = math.ceil(settings.worker.stop_seconds) + 1
    threading.Thread(
        target=partial(DBOS.destroy, workflow_completion_timeout_sec=seconds), daemon=True
    ).start()
    if not gate.quiet(settings.worker.stop_seconds):
        _log.info("worker stopped in the middle of steps, which are begun again")
    for each in at_intervals:
        each.join(_BESIDE_SECONDS)
    _stop_announcing(messengers)
    lease.release()
    logging.shutdown()
    # Steps in flight would otherwise hold the process for as long as EC2 takes; the queue knows
    # where they were.
    os._exit(0)


def _stop_announcing(messengers: Sequence[Messenger]) -> None:
    """Let all of them send what they can, at the same time."""
    for messenger in messengers:
        messenger.tell_to_stop(_ANNOUNCING_SECONDS)
    for messenger in messengers:
        messenger.stop(_ANNOUNCING_SECONDS)


def _opened(settings: Settings, told: threading.Event) -> Store | None:
    """The database, as soon as a PostgreSQL answers; None when told to stop before."""
    deadline = time.monotonic() + _PATIENCE
    pause = 1.0
    while True:
        try:
            return Store(settings.state_directory, settings.database)
        except Unreachable as error:
            if time.monotonic() > deadline:
                raise
            _log.warning("waiting for the database, tried again in %g s: %s", pause, error)
        # systemd would take it for a start that hangs.
        watchdog.notify(f"EXTEND_TIMEOUT_USEC={round((pause + _STARTING_SECONDS) * 1e6)}")
        if told.wait(pause):
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


def _refuse_other_steps(store: Store, queue: Jobs, members: Members) -> None:
    """Raise StoreError when there is work that this version's steps cannot go on with."""
    names = [member.name for member in members.all()] if store.shared else []
    if begun := queue.begun_otherwise(VERSION, alive(store.engine, names) if names else ()):
        raise StoreError(
            f"in flight are {', '.join(begun)}, begun by a version of fedimg whose steps were "
            "others; install that one again, let them end ('fedimg status'), then upgrade"
        )


def _launch(store: Store, name: str, uploader: Uploader, jobs_at_once: int) -> None:
    """Serve the queues: go on with what an earlier worker left, then take what waits."""
    _configure(store, name)
    _register(jobs.INTAKE, uploader.intake)
    _register(jobs.PUBLISH, uploader.publish)
    _register(jobs.CLEAN, uploader.clean)
    _log_as_ours()
    DBOS.launch()
    for queue, at_once in (
        (jobs.INTAKE_QUEUE, _ENTRIES),
        (jobs.JOBS_QUEUE, jobs_at_once),
        (jobs.CLEAN_QUEUE, _CLEAN_UPS),
    ):
        DBOS.register_queue(queue, worker_concurrency=at_once, polling_interval_sec=_POLL_SECONDS)


def _configure(store: Store, name: str) -> None:
    DBOS(
        config={
            "name": "fedimg",
            "system_database_url": store.queue_url,
            "system_database_engine": store.engine,
            "application_version": VERSION,
            "executor_id": name,
            "log_level": "WARNING",
            # A worker may not be allowed to make tables: 'fedimg store migrate' is for that.
            "run_migrations": not store.shared,
        }
    )


def _finish(store: Store, queue: Jobs, name: str, *, alone: Callable[[], bool]) -> None:
    """Take nothing new, and return when all that was begun has ended.

    The clean-ups of the jobs are another worker's, unless this one is alone.
    """
    DBOS.destroy(workflow_completion_timeout_sec=_DRAIN_SECONDS)
    if not alone() or not queue.cleaning():
        return
    _configure(store, name)
    DBOS.listen_queues([jobs.CLEAN_QUEUE])
    DBOS.launch()
    while queue.cleaning() and alone():
        time.sleep(_POLL_SECONDS)
    DBOS.destroy(workflow_completion_timeout_sec=_DRAIN_SECONDS)


def _alone(store: Store, members: Members) -> bool:
    """Whether no other worker takes what this one leaves."""
    working = [member.name for member in members.all() if not member.draining]
    return not store.shared or not alive(store.engine, working)


def _told_to_stop() -> threading.Event:
    """Set by SIGTERM and SIGINT; the second one ends the process where it stands."""
    told = threading.Event()

    def tell(_number: int, _frame: FrameType | None) -> None:
        if told.is_set():
            os._exit(0)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    return told


def _register(name: str, body: Callable[..., object]) -> None:
    # Recovery is what a worker is for: no number of crashes makes a job one to give up.
    @DBOS.workflow(name=name, max_recovery_attempts=None)
    def workflow(*given: object) -> object:
        return body(*given)


def _log_as_ours() -> None:
    """Let the queue's own log go where ours goes, without its word on every cancelled job."""
    queue = logging.getLogger("dbos")
    queue.handlers.clear()
    queue.propagate = True
    queue.setLevel(logging.WARNING)
    queue.addFilter(_tells_of_no_cancelled_job)


def _tells_of_no_cancelled_job(record: logging.LogRecord) -> bool:
    cancelled = (
        queue_error.DBOSAwaitedWorkflowCancelledError,
        queue_error.DBOSWorkflowCancelledError,
    )
    return not (record.exc_info and isinstance(record.exc_info[1], cancelled))
