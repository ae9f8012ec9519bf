"""Take runs from all queues by one thread, which asks with one query whether there are any.

DBOS's own manager polls each queue by a thread of its own, with two transactions each time, and its
delayed workflows, deadlines and schedules, of which fedimg has none, with three more a second. It
has no setting for that: `stand_in` puts this module in its place, in DBOS 3.4.0, which is the one
that fedimg requires.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import compress
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, _core, _dbos
from dbos._error import DBOSWorkflowFunctionNotFoundError
from dbos._utils import INTERNAL_QUEUE_NAME, GlobalParams, generate_uuid

from fedimg.process.wait_log import WaitLog
from fedimg.store.shared_poll import SharedPoll
from fedimg.untrusted.failures import reason

#: The name of the thread, for the watchdog.
THREAD = "queues"
_QUEUED = "ENQUEUED"

_log = logging.getLogger(__name__)


class QueuePoll:
    """The thread that takes runs from the queues, and starts them in DBOS's threads.

    Args:
        queues: the names of the queues that fedimg registers.
        poll: asks the database for runs, and along with that what other threads poll.
        wait: waits for the time of the next look, or until the event that it gets is set.
    """

    def __init__(
        self,
        queues: Collection[str],
        poll: SharedPoll,
        wait: Callable[[threading.Event], object],
    ) -> None:
        self._queues = tuple(queues)
        self._poll = poll
        self._wait = wait
        self._failing = WaitLog(_log)

    def stand_in(self) -> None:
        """Have DBOS start this in place of its own threads, at its next launch."""
        replaced = {
            "queue_thread": self._run,
            "background_jobs_thread": _nothing,
            "dynamic_scheduler_loop": _nothing,
        }
        if not replaced.keys() <= vars(_dbos).keys():
            raise RuntimeError("this version of DBOS starts other threads than fedimg knows")
        vars(_dbos).update(replaced)

    def _run(self, stop: threading.Event, dbos: DBOS) -> None:
        threading.current_thread().name = THREAD
        names = self._names(dbos)
        waiting = self._poll.question([_holds_runs(dbos, name) for name in names], 0)
        while not stop.is_set():
            filled: list[str] = []
            with self._errors_logged("look into the queues", dbos, stop):
                filled = list(compress(names, waiting.answer()))
            for queue in filled:
                if not stop.is_set():
                    with self._errors_logged(f"take runs from the queue {queue}", dbos, stop):
                        self._take(dbos, queue)
            self._wait(stop)

    def _names(self, dbos: DBOS) -> list[str]:
        """Return the names of the queues from which this worker takes runs."""
        listened = dbos._listening_queues
        own = [name for name in self._queues if listened is None or name in listened]
        # DBOS queues a run without a queue, as a recovered or resumed one, in its own.
        return [*own, INTERNAL_QUEUE_NAME]

    def _take(self, dbos: DBOS, name: str) -> None:
        """Take as many runs from a queue as this worker may run at once, and start them."""
        queue: Any = (
            dbos._registry.get_internal_queue()
            if name == INTERNAL_QUEUE_NAME
            else dbos._sys_db.get_queue(name)
        )
        if queue is None:
            # DBOS registers it in a moment.
            return
        running, owner = dbos._active_workflows_set.count_for_queue(name), generate_uuid()
        runs, _ = dbos._sys_db.start_queued_workflows(
            queue,
            GlobalParams.executor_id,
            GlobalParams.app_version,
            None,
            running,
            owner_xid=owner,
        )
        for run in runs:
            try:
                status = dbos._sys_db.get_workflow_status(run)
                if status is not None:
                    _core.execute_dequeued_workflow(dbos, status, owner)
            except DBOSWorkflowFunctionNotFoundError:
                # The run is this worker's: a worker that knows it continues it.
                _log.exception("cannot start the run %s", run)
            except Exception as error:
                _log.warning("cannot start the run %s, tries again: %s", run, reason(error))
                dbos._sys_db.reenqueue_for_recovery(
                    run, [GlobalParams.executor_id], INTERNAL_QUEUE_NAME
                )

    @contextmanager
    def _errors_logged(self, what: str, dbos: DBOS, stop: threading.Event) -> Iterator[None]:
        """Log an error: the next look tries again; a fatal one of the database ends the worker."""
        try:
            yield
        except Exception as error:
            # Another worker takes runs from the same queue at this moment.
            raced = isinstance(error, sa.exc.DBAPIError) and (
                dbos._sys_db.is_lock_conflict(error)
                or dbos._sys_db.is_serialization_conflict(error)
            )
            if not raced and not stop.is_set():
                self._failing.waiting(what, f"cannot {what}, tries again: {reason(error)}")
        else:
            self._failing.over(what, f"can {what} again")


def _holds_runs(dbos: DBOS, name: str) -> sa.ColumnElement[bool]:
    """Return the condition that a queue holds runs which wait, perhaps for another version."""
    runs = dbos._sys_db.tables.workflow_status
    return (
        sa.exists()
        .where(runs.c.queue_name == name, runs.c.status == _QUEUED)
        .where(dbos._sys_db._in_flight_status_prover())
    )


def _nothing(*_arguments: object) -> None:
    """Take the place of a thread for delayed workflows, deadlines or schedules: there are none."""
