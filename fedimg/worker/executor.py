"""Run the queued workflows in this process by DBOS, until the worker stops or is drained.

`fedimg.jobs.queue` puts workflows into the queues; their code is in
`fedimg.worker.intake_workflow`, `fedimg.worker.job_workflows` and `fedimg.lifecycle`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from functools import partial

from dbos import DBOS
from dbos import error as queue_error

from fedimg.jobs.queue import (
    CHANGE,
    CLEAN,
    CLEAN_QUEUE,
    INTAKE,
    INTAKE_QUEUE,
    JOBS_QUEUE,
    LIFE_QUEUE,
    PUBLISH,
    JobQueue,
)
from fedimg.jobs.serialization import SERIALIZER
from fedimg.lifecycle.pruning import Pruning
from fedimg.lifecycle.repair_workflow import RepairWorkflow
from fedimg.lifecycle.share import ShareWorkflow
from fedimg.lifecycle.withdraw_and_restore import WithdrawAndRestore
from fedimg.store.changes import DELETE, DEPRECATE, DISABLE, REPAIR, RESTORE, SHARE, WITHDRAW
from fedimg.store.shared_poll import Question, SharedPoll
from fedimg.store.store import Store, StoreError
from fedimg.worker.intake_workflow import IntakeWorkflow
from fedimg.worker.job_workflows import JobWorkflows
from fedimg.worker.queue_poll import THREAD, QueuePoll

_log = logging.getLogger(__name__)

#: The version of the steps. A worker continues runs of its own version only, and refuses to start
#: on runs of another. Raise the version by one if a change of the steps makes running jobs
#: incompatible, and only then. Runs that have not started go to the highest running version.
VERSION = "1"
#: The names of the queues.
_QUEUES = (INTAKE_QUEUE, JOBS_QUEUE, CLEAN_QUEUE, LIFE_QUEUE)
#: Names of the threads that take runs from the queues.
LOOPS = [THREAD]
#: Entries that this worker looks up at the same time.
_ENTRIES = 20
#: Jobs that this worker cleans up at the same time.
_CLEAN_UPS = 10
#: Changes of public AMIs, each of one job in one region, that this worker makes at the same time.
_CHANGES = 40
#: Polling interval of the queues.
_POLL_SECONDS = 0.4
#: How long a drained worker waits for its jobs, which in effect is without a limit.
_DRAIN_SECONDS = 30 * 86400


def serve(
    store: Store,
    poll: SharedPoll,
    name: str,
    intake: IntakeWorkflow,
    jobs: JobWorkflows,
    changes: WithdrawAndRestore,
    pruning: Pruning,
    repairs: RepairWorkflow,
    shares: ShareWorkflow,
    jobs_at_once: int,
) -> None:
    """Start to run queued workflows, first those that an earlier worker of this name began.

    Raises StoreError if the tables of DBOS are older than this version needs.
    """
    _configure(store, poll, name)
    _register(INTAKE, intake.resolve)
    _register(PUBLISH, jobs.publish)
    _register(CLEAN, jobs.clean)
    _register(f"{CHANGE}{WITHDRAW}", changes.withdraw)
    _register(f"{CHANGE}{RESTORE}", changes.restore)
    _register(f"{CHANGE}{DEPRECATE}", pruning.deprecate)
    _register(f"{CHANGE}{DISABLE}", pruning.disable)
    _register(f"{CHANGE}{DELETE}", pruning.delete)
    _register(f"{CHANGE}{REPAIR}", repairs.repair)
    _register(f"{CHANGE}{SHARE}", shares.share)
    _configure_queue_log()
    try:
        DBOS.launch()
    except queue_error.DBOSInitializationError as error:
        raise StoreError(
            f"the database {store.address} lacks queue tables of this version: run 'fedimg store "
            f"migrate' as a role that may create tables there ({error})"
        ) from error
    for queue, at_once in (
        (INTAKE_QUEUE, _ENTRIES),
        (JOBS_QUEUE, jobs_at_once),
        (CLEAN_QUEUE, _CLEAN_UPS),
        (LIFE_QUEUE, _CHANGES),
    ):
        DBOS.register_queue(
            queue,
            worker_concurrency=at_once,
        )


def claim_new_runs(latest: Question) -> bool:
    """Assign runs that have not started to workers of this version; return whether that worked.

    DBOS assigns them to the version that was registered last, even if no such worker is running.
    The time of registration comes from a worker's clock: a version registered by a clock that was
    ahead stays the last one until that time has passed. `latest` asks for the last one.
    """
    if latest.answer() == (VERSION,):
        return True
    DBOS.set_latest_application_version(VERSION)
    latest.outdate()
    return latest.answer() == (VERSION,)


def stop_taking_runs(seconds: float) -> None:
    """Take no more runs from the queues, and return at once.

    A thread gives the runs in progress `seconds` and a little more to end; the caller itself waits
    only for their current steps.
    """
    threading.Thread(
        target=partial(DBOS.destroy, workflow_completion_timeout_sec=math.ceil(seconds) + 1),
        daemon=True,
    ).start()


def finish(
    store: Store, poll: SharedPoll, queue: JobQueue, name: str, *, alone: Callable[[], bool]
) -> None:
    """Take no more runs, and return when the runs in progress have ended.

    Other workers clean up after them; if `alone()`, this worker does.
    """
    DBOS.destroy(workflow_completion_timeout_sec=_DRAIN_SECONDS)
    _give_back(queue, name)
    if not alone() or not queue.cleaning():
        return
    _configure(store, poll, name)
    DBOS.listen_queues([CLEAN_QUEUE])
    DBOS.launch()
    claim_new_runs(poll.question([queue.latest_version()], 0))
    while queue.cleaning() and alone():
        time.sleep(_POLL_SECONDS)
    DBOS.destroy(workflow_completion_timeout_sec=_DRAIN_SECONDS)
    _give_back(queue, name)


def _give_back(queue: JobQueue, name: str) -> None:
    """Put back what was taken as the threads ended: nobody looks for runs of a drained worker."""
    if runs := queue.requeue(name):
        _log.info("runs that were not begun wait for another worker: %s", ", ".join(runs))


def _configure(store: Store, poll: SharedPoll, name: str) -> None:
    QueuePoll(_QUEUES, poll, lambda stop: stop.wait(_POLL_SECONDS)).stand_in()
    DBOS(
        config={
            "name": "fedimg",
            "system_database_url": store.queue_url,
            "system_database_engine": store.engine,
            "application_version": VERSION,
            "executor_id": name,
            "serializer": SERIALIZER,
            "log_level": "WARNING",
            # A worker's role may lack the right to create tables: 'fedimg store migrate' does it.
            "run_migrations": not store.shared,
            # For messages and events between workflows, of which fedimg has none: a connection, and
            # a thread that wakes many times a second.
            "use_listen_notify": False,
        }
    )


def _register(name: str, body: Callable[..., object]) -> None:
    # A job is recovered after any number of crashes.
    @DBOS.workflow(name=name, max_recovery_attempts=None)
    def workflow(*arguments: object) -> object:
        return body(*arguments)


def _configure_queue_log() -> None:
    """Send the log of DBOS to fedimg's log, without errors that fedimg reports itself."""
    log = logging.getLogger("dbos")
    log.handlers.clear()
    log.propagate = True
    log.setLevel(logging.WARNING)
    log.addFilter(_is_unreported)


def _is_unreported(record: logging.LogRecord) -> bool:
    reported = (
        # DBOS logs these for every cancelled job.
        queue_error.DBOSAwaitedWorkflowCancelledError,
        queue_error.DBOSWorkflowCancelledError,
        queue_error.DBOSInitializationError,
    )
    return not (record.exc_info and isinstance(record.exc_info[1], reported))
