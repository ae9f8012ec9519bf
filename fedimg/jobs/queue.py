"""What may be asked of the queue from outside a worker: take in, submit, retry, cancel."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from enum import StrEnum

import sqlalchemy as sa
from dbos import DBOSClient

from fedimg.identity import Known
from fedimg.images import RawImage
from fedimg.jobs.age_exemptions import AgeExemptions
from fedimg.jobs.retries import RetryKind, RetrySchedule, ScheduledRetry
from fedimg.jobs.serialization import SERIALIZER
from fedimg.store.store import Store
from fedimg.store.twins import Submission

#: The queues and workflows that fedimg.worker.process serves; jobs wait under these names in the
#: database, so a change orphans what is waiting.
INTAKE_QUEUE = "fedimg.intake"
JOBS_QUEUE = "fedimg.jobs"
#: Apart: a clean-up ends a cancelled run, and must not wait for one of the jobs' places to do so.
CLEAN_QUEUE = "fedimg.clean"
INTAKE = "fedimg.intake"
PUBLISH = "fedimg.publish"
CLEAN = "fedimg.clean"
#: Few enough for one statement, and for the others not to wait.
_FORGOTTEN_AT_ONCE = 100


class Entry(StrEnum):
    """What has become of an entry."""

    #: It was never heard of.
    NEW = "new"
    #: It waits to be asked for, or is being.
    QUEUED = "queued"
    #: Its images have jobs.
    TAKEN = "taken"
    #: It failed, or has no image that the site publishes, or none yet.
    EMPTY = "empty"


class JobQueue:
    """The queue, seen from the bus and from the command line; needs no running worker."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._retries = RetrySchedule(store)
        self._age_exemptions = AgeExemptions(store)
        self._client = DBOSClient(
            system_database_engine=store.engine,
            serializer=SERIALIZER,
            # Whoever asks knows better whether to wait.
            retry_connection_errors=False,
        )

    def close(self) -> None:
        """Let go of the queue."""
        self._client.destroy()

    def take_in(self, entry: str, *, any_age: bool = False) -> Entry:
        """Store what finished in Koji, `task:<id>` or `build:<id>`, once however often.

        An entry that failed or came to nothing is asked for again when it is announced again: a
        forger who was early must not take an id from the build that gets it. `any_age` says, on
        purpose, that it may have finished long ago. Returns what had become of it before.
        """
        before = self.known(entry)
        if any_age and before is not Entry.TAKEN:
            self._age_exemptions.add(entry)
        if before is Entry.EMPTY:
            self._client.delete_workflow(entry)
        if before in (Entry.NEW, Entry.EMPTY):
            self._client.enqueue(
                {"queue_name": INTAKE_QUEUE, "workflow_name": INTAKE, "workflow_id": entry}, entry
            )
        return before

    def known(self, entry: str) -> Entry:
        """What has become of an entry by now."""
        for row in self._client.list_workflows(workflow_ids=[entry], load_input=False):
            if row.status not in ("SUCCESS", "ERROR"):
                return Entry.QUEUED
            return Entry.TAKEN if row.output else Entry.EMPTY
        return Entry.NEW

    def submit(self, image: RawImage) -> str | None:
        """Queue the publishing of an image; its job, or None when there is one already."""
        return self._store.add_job(
            image, queue=lambda connection, run: self._publish(connection, image.job, run)
        )

    def upload(self, known: Known, *, on_purpose: bool = False) -> Submission:
        """Queue the publishing of an image that a person named by its URL.

        Unless another job has the image, or it is to be published once more `on_purpose`.
        """
        taken = self._store.add_upload(known, queue=self._publish, on_purpose=on_purpose)
        if taken.run is not None:
            # A run that was to come by itself had another image.
            self._retries.forget(taken.job)
        return taken

    def retry(self, job: str) -> int | None:
        """Queue an ended job's next run; its number, or None when there is nothing to retry."""
        run = self._store.next_run(
            job, queue=lambda connection, run: self._publish(connection, job, run)
        )
        if run is not None:
            # A person has looked: what comes by itself from now on is counted anew.
            self._retries.forget(job)
        return run

    def begin_due(self) -> None:
        """Queue what jobs that ended get later, by themselves, as far as its time has come."""
        self._retries.wake()
        for turn in self._retries.due():
            begin = self._run_again if turn.what is RetryKind.RUN else self._clean_again
            queued = begin(turn)
            row = self._store.job(turn.job)
            # Behind its own clean-up it is not ready yet; behind a newer run it is of no use.
            if queued or row is None or row.run != turn.run:
                self._retries.begun(turn)

    def _run_again(self, turn: ScheduledRetry) -> bool:
        run = self._store.next_run(
            turn.job,
            queue=lambda connection, run: self._publish(connection, turn.job, run),
            behind=turn.run,
        )
        return run is not None

    def _clean_again(self, turn: ScheduledRetry) -> bool:
        def queue(connection: sa.Connection, state: str, error: str | None) -> object:
            given = (turn.job, turn.run, state, error, False, turn.count)
            name = f"{workflow_id(CLEAN, turn.job, turn.run)}:{turn.count}"
            return self._queue(connection, CLEAN_QUEUE, CLEAN, name, *given)

        return self._store.clean_again(turn.job, turn.run, queue=queue)

    def cancel(self, job: str) -> bool:
        """End a live job and queue its clean-up, or have an ended one not run again by itself.

        False when neither is to be done.
        """
        run = self._store.cancel(
            job,
            queue=lambda connection, run: self._clean(connection, job, run, "cancelled", None),
        )
        if run is None:
            return self._retries.give_up(job)
        self._client.cancel_workflow(workflow_id(PUBLISH, job, run))
        return True

    def finish(
        self,
        job: str,
        run: int,
        state: str,
        error: str | None,
        *,
        later: bool,
        unknown: bool = False,
    ) -> bool:
        """Queue the clean-up of a run, behind which the job is in `state`; False if not live.

        `later` says that another run may do better, without anything being mended; `unknown`, that
        nobody knows whether one may.
        """
        return self._store.finish(
            job,
            run,
            queue=lambda connection, run: self._clean(connection, job, run, state, error, later),
            unknown=unknown,
        )

    def begun_otherwise(self, version: str, living: Collection[str] = ()) -> list[str]:
        """The workflows in flight that a worker of another version began, less the living ones'."""
        pending = self._client.list_workflows(status="PENDING", load_input=False, load_output=False)
        return [
            each.workflow_id
            for each in pending
            if each.app_version not in (None, version) and each.executor_id not in living
        ]

    def left_to_others(self, versions: Collection[str]) -> list[str]:
        """The workflows in the queues that no worker of these versions takes."""
        waiting = self._client.list_workflows(
            status="ENQUEUED", load_input=False, load_output=False
        )
        return [each.workflow_id for each in waiting if each.app_version not in (None, *versions)]

    def queue_again(self, connection: sa.Connection, job: str, run: int) -> None:
        """Queue a run that waits already, in another database."""
        self._publish(connection, job, run)

    def entries(self) -> list[str]:
        """The entries that wait to be asked for, or are being."""
        waiting = self._client.list_workflows(
            name=INTAKE, status=["ENQUEUED", "PENDING"], load_input=False, load_output=False
        )
        return [each.workflow_id for each in waiting]

    def cleaning(self) -> bool:
        """Whether a clean-up waits, or is under way."""
        return bool(
            self._client.list_workflows(
                queue_name=CLEAN_QUEUE,
                status=["ENQUEUED", "PENDING"],
                limit=1,
                load_input=False,
                load_output=False,
            )
        )

    def requeue(self, worker: str) -> list[str]:
        """Put what a dead worker had begun back where it was taken from; the workflows.

        Their recorded steps stay. To be called by who holds the worker's lock, and nobody else.
        """
        pending = self._client.list_workflows(
            status="PENDING", executor_id=worker, load_input=False, load_output=False
        )
        for queue in sorted({each.queue_name for each in pending if each.queue_name}):
            ids = [each.workflow_id for each in pending if each.queue_name == queue]
            self._client.resume_workflows(ids, queue_name=queue)
        return [each.workflow_id for each in pending]

    def forget_ended(self, before: float) -> int:
        """Forget the workflows that ended before this time, in seconds since the epoch; how many.

        An entry that is announced once more is asked for again, and finds its jobs there.
        """
        forgotten = 0
        while ended := self._client.list_workflows(
            status=["SUCCESS", "ERROR", "CANCELLED"],
            completed_before=datetime.fromtimestamp(before, UTC).isoformat(),
            limit=_FORGOTTEN_AT_ONCE,
            load_input=False,
            load_output=False,
        ):
            self._client.delete_workflows([workflow.workflow_id for workflow in ended])
            forgotten += len(ended)
        return forgotten

    def _publish(self, connection: sa.Connection, job: str, run: int) -> object:
        name = workflow_id(PUBLISH, job, run)
        return self._queue(connection, JOBS_QUEUE, PUBLISH, name, job, run)

    def _clean(
        self,
        connection: sa.Connection,
        job: str,
        run: int,
        state: str,
        error: str | None,
        later: bool = False,
    ) -> object:
        name = workflow_id(CLEAN, job, run)
        given = (job, run, state, error, later)
        return self._queue(connection, CLEAN_QUEUE, CLEAN, name, *given)

    def _queue(
        self, connection: sa.Connection, queue: str, workflow: str, name: str, *given: object
    ) -> object:
        return self._client.enqueue_in_transaction(
            connection,
            {"queue_name": queue, "workflow_name": workflow, "workflow_id": name},
            *given,
        )


def workflow_id(workflow: str, job: str, run: int) -> str:
    """The queue's name for one run of a job, or for its clean-up."""
    return f"{workflow}:{job}:{run}"
