"""Serving the queues: DBOS as a worker runs it, from its start to the end of what was begun.

What is queued is fedimg.jobs.queue' to say, what is done about it fedimg.worker.workflows's.
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
    CLEAN,
    CLEAN_QUEUE,
    INTAKE,
    INTAKE_QUEUE,
    JOBS_QUEUE,
    PUBLISH,
    JobQueue,
)
from fedimg.jobs.serialization import SERIALIZER
from fedimg.store.store import Store, StoreError
from fedimg.worker.workflows import Workflows

#: Jobs of one version are taken on by any worker that says the same; raise it, by one, when a
#: change of the steps leaves running jobs behind, and only then: the worker refuses to start on
#: those. What nobody has begun is for the highest version of the workers that live.
VERSION = "1"
#: The queue's threads, by its own names, without which a worker does nothing.
LOOPS = [f"queue-worker-{name}" for name in (INTAKE_QUEUE, JOBS_QUEUE, CLEAN_QUEUE)]
#: Entries that wait for Koji at the same time.
_ENTRIES = 20
#: Jobs that are cleaned up at the same time.
_CLEAN_UPS = 10
#: Between two looks at a queue: each is three transactions, and workers that share a database look
#: by turns.
_POLL_SECONDS = 0.25
_SHARED_POLL_SECONDS = 1.0
#: How long a drained worker's jobs may take: as long as they do.
_DRAIN_SECONDS = 30 * 86400


def serve(store: Store, name: str, workflows: Workflows, jobs_at_once: int) -> None:
    """Go on with what an earlier worker of this name left, then take what waits.

    Raises StoreError when the queue's own tables are an older version's.
    """
    _configure(store, name)
    _register(INTAKE, workflows.intake)
    _register(PUBLISH, workflows.publish)
    _register(CLEAN, workflows.clean)
    _log_as_ours()
    try:
        DBOS.launch()
    except queue_error.DBOSInitializationError as error:
        raise StoreError(
            f"the queue's tables in the database {store.place} are not prepared for this version: "
            f"run 'fedimg store migrate' as a role that may make tables there ({error})"
        ) from error
    for queue, at_once in (
        (INTAKE_QUEUE, _ENTRIES),
        (JOBS_QUEUE, jobs_at_once),
        (CLEAN_QUEUE, _CLEAN_UPS),
    ):
        DBOS.register_queue(
            queue,
            worker_concurrency=at_once,
            polling_interval_sec=_SHARED_POLL_SECONDS if store.shared else _POLL_SECONDS,
        )


def take_what_is_new() -> bool:
    """Have workers of this version, and of no other, take what none has begun; whether they do.

    By itself the queue leaves that to the version that came last, whether it lives or not. When one
    came is the word of some machine's clock: behind one that was ahead no other comes last.
    """
    if _latest() == VERSION:
        return True
    DBOS.set_latest_application_version(VERSION)
    return _latest() == VERSION


def _latest() -> str:
    return str(DBOS.get_latest_application_version()["version_name"])


def take_no_more(seconds: float) -> None:
    """Take nothing from the queues from now on, and return at once.

    For jobs under way it waits in a thread of its own, for `seconds` and a little more: whoever
    stops waits for their steps, not for whole jobs.
    """
    threading.Thread(
        target=partial(DBOS.destroy, workflow_completion_timeout_sec=math.ceil(seconds) + 1),
        daemon=True,
    ).start()


def finish(store: Store, queue: JobQueue, name: str, *, alone: Callable[[], bool]) -> None:
    """Take nothing new, and return when all that was begun has ended.

    The clean-ups of the jobs are another worker's, unless this one is alone.
    """
    DBOS.destroy(workflow_completion_timeout_sec=_DRAIN_SECONDS)
    if not alone() or not queue.cleaning():
        return
    _configure(store, name)
    DBOS.listen_queues([CLEAN_QUEUE])
    DBOS.launch()
    take_what_is_new()
    while queue.cleaning() and alone():
        time.sleep(_POLL_SECONDS)
    DBOS.destroy(workflow_completion_timeout_sec=_DRAIN_SECONDS)


def _configure(store: Store, name: str) -> None:
    DBOS(
        config={
            "name": "fedimg",
            "system_database_url": store.queue_url,
            "system_database_engine": store.engine,
            "application_version": VERSION,
            "executor_id": name,
            "serializer": SERIALIZER,
            "log_level": "WARNING",
            # A worker may not be allowed to make tables: 'fedimg store migrate' is for that.
            "run_migrations": not store.shared,
        }
    )


def _register(name: str, body: Callable[..., object]) -> None:
    # Recovery is what a worker is for: no number of crashes makes a job one to give up.
    @DBOS.workflow(name=name, max_recovery_attempts=None)
    def workflow(*given: object) -> object:
        return body(*given)


def _log_as_ours() -> None:
    """Let the queue's own log go where ours goes, without its word on what we see ourselves."""
    queue = logging.getLogger("dbos")
    queue.handlers.clear()
    queue.propagate = True
    queue.setLevel(logging.WARNING)
    queue.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    known = (
        # Every cancelled job.
        queue_error.DBOSAwaitedWorkflowCancelledError,
        queue_error.DBOSWorkflowCancelledError,
        queue_error.DBOSInitializationError,
    )
    return not (record.exc_info and isinstance(record.exc_info[1], known))
