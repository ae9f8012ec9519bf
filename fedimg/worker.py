"""The worker: the process that serves the queues, announces, and stops when it is told to."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType

from dbos import DBOS
from dbos import error as queue_error

from fedimg import jobs, watchdog
from fedimg.aws import patience
from fedimg.aws.clients import Clients
from fedimg.config import Settings
from fedimg.ending import end_exhausted, end_with_database
from fedimg.jobs import Jobs
from fedimg.koji import Hub
from fedimg.lease import Lease
from fedimg.messenger import THREAD as ANNOUNCING
from fedimg.messenger import Messenger
from fedimg.periodic import beside
from fedimg.steps import Gate
from fedimg.store import Store, StoreError
from fedimg.uploader import Uploader

#: Jobs of one version are taken on by any worker that says the same; raise it when a change of
#: the steps leaves running jobs behind, and only then: the worker refuses to start on those.
VERSION = "1"
#: The one worker's name in the queue: a restarted worker recovers what it left under it.
WORKER = "worker"
#: Entries that wait for Koji at the same time.
_ENTRIES = 20
#: Jobs that are cleaned up at the same time.
_CLEAN_UPS = 10
_POLL_SECONDS = 0.25
#: How long announcements may take to leave when the worker stops; the others leave later.
_ANNOUNCING_SECONDS = 3.0
#: … and what is done beside the queues, which may be waiting for Koji, to end.
_BESIDE_SECONDS = 0.5
#: The threads without which a worker does nothing: the queue's, by its own names, and ours.
_LOOPS = (
    *(f"queue-worker-{name}" for name in (jobs.INTAKE_QUEUE, jobs.JOBS_QUEUE, jobs.CLEAN_QUEUE)),
    ANNOUNCING,
)

_log = logging.getLogger(__name__)


def run_worker(settings: Settings) -> int:
    """Work until SIGTERM or SIGINT; the exit status.

    Steps under way then may end within `worker.stop_seconds`, unless told a second time; whatever
    is left the next worker takes up. So it does when the database fails or the process runs out of
    memory, files or threads; the exit status is 1 then.
    Raises StoreError when the state directory cannot be used or holds work in flight of a version
    with other steps, WorkerRunning when it is in use, BusError when the fedmsg configuration leads
    to no relay.
    """
    store = Store(settings.state_directory)
    lease = Lease(settings.state_directory)
    told = _told_to_stop()
    store.on_failure(end_with_database)
    queue = Jobs(store)
    _refuse_other_steps(queue)
    pulse = watchdog.Pulse(store.engine, _LOOPS)
    messenger = Messenger(store, settings.bus.confirm_seconds)
    messenger.start()
    gate = Gate(end_exhausted)
    clients = Clients()
    # The first takes long to make, and no job is to wait for that.
    patience.prepare(clients, [settings.ec2.origin])
    uploader = Uploader(settings, store, queue, clients, Hub(settings.koji), gate)
    _launch(store, uploader, settings.ec2.limits.jobs)
    at_intervals = beside(settings, store, queue, told)
    for each in at_intervals:
        each.start()
    _log.info("worker of site %s started on %s", settings.site, settings.state_directory)
    watchdog.notify("READY=1")
    watchdog.wait(told, pulse.silent)
    watchdog.notify("STOPPING=1")
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
    messenger.stop(_ANNOUNCING_SECONDS)
    lease.release()
    logging.shutdown()
    # Steps in flight would otherwise hold the process for as long as EC2 takes; the queue knows
    # where they were.
    os._exit(0)


def _refuse_other_steps(queue: Jobs) -> None:
    """Raise StoreError when there is work that this version's steps cannot go on with."""
    if begun := queue.begun_otherwise(VERSION):
        raise StoreError(
            f"in flight are {', '.join(begun)}, begun by a version of fedimg whose steps were "
            "others; install that one again, let them end ('fedimg status'), then upgrade"
        )


def _launch(store: Store, uploader: Uploader, jobs_at_once: int) -> None:
    """Serve the queues: go on with what an earlier worker left, then take what waits."""
    DBOS(
        config={
            "name": "fedimg",
            "system_database_url": str(store.engine.url),
            "system_database_engine": store.engine,
            "application_version": VERSION,
            "executor_id": WORKER,
            "log_level": "WARNING",
        }
    )
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
