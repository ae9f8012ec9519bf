"""Put entries and runs on the queue, and cancel, retry and list them; this needs no worker."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from enum import StrEnum

import sqlalchemy as sa
from dbos import DBOSClient

from fedimg.identity import Known
from fedimg.images import RawImage
from fedimg.jobs.age_exemptions import AgeExemptions
from fedimg.jobs.entry_images import EntryImages
from fedimg.jobs.retries import RetryKind, RetrySchedule, ScheduledRetry
from fedimg.jobs.serialization import SERIALIZER
from fedimg.store.added_regions import AddedRegions
from fedimg.store.changes import CHANGES
from fedimg.store.store import Store
from fedimg.store.twins import Submission

#: The queues and workflows that fedimg.worker.executor serves. Workflows wait in the database under
#: these names, so no worker would find them after a change.
INTAKE_QUEUE = "fedimg.intake"
JOBS_QUEUE = "fedimg.jobs"
#: A queue of its own: a clean-up ends a cancelled run, and must not wait until a job has ended.
CLEAN_QUEUE = "fedimg.clean"
#: Changes of public AMIs, which wait for no job.
LIFE_QUEUE = "fedimg.life"
INTAKE = "fedimg.intake"
PUBLISH = "fedimg.publish"
CLEAN = "fedimg.clean"
#: The workflow of a change, by what it does: `fedimg.withdraw` and its like.
CHANGE = "fedimg."
#: The lock of transactions that queue a change.
_CHANGES_LOCK = "changes"
#: DBOS's states of workflows that wait or run.
_ACTIVE = ("ENQUEUED", "PENDING")
#: How many workflows one statement deletes: other writers wait for it.
_DELETED_AT_ONCE = 100


class EntryState(StrEnum):
    """The state of an entry."""

    #: The queue has no record of the entry.
    NEW = "new"
    #: The entry waits in the queue, or a worker is resolving it.
    QUEUED = "queued"
    #: The entry's images have jobs.
    TAKEN = "taken"
    #: Some of the entry's images have jobs; the settings left others out, or an earlier version of
    #: fedimg did not record whether they did.
    PARTLY = "partly"
    #: The entry failed, or has no image that the site publishes, or none yet.
    EMPTY = "empty"


class ChangeTry(StrEnum):
    """The state of a try of a change of AMIs."""

    QUEUED = "queued"
    #: Not queued: another change of the same AMIs is queued or running.
    BUSY = "busy"
    ENDED = "ended"


#: The states in which an entry is queued when it is announced or found.
ASKED_AGAIN = (EntryState.NEW, EntryState.EMPTY, EntryState.PARTLY)


class JobQueue:
    """The queue as hub, consumer, worker and commands use it; needs no running worker."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._retries = RetrySchedule(store)
        self._age_exemptions = AgeExemptions(store)
        self._images = EntryImages(store)
        self._added = AddedRegions(store)
        self._client = DBOSClient(
            system_database_engine=store.engine,
            serializer=SERIALIZER,
            # The callers decide themselves whether to wait for a database that does not answer.
            retry_connection_errors=False,
        )

    def close(self) -> None:
        """Close the queue's connections."""
        self._client.destroy()

    def enqueue_entry(self, entry: str, *, any_age: bool = False) -> EntryState:
        """Queue an entry, `task:<id>`, `build:<id>` or `compose:<id>`, unless it is there already.

        An entry that failed or was empty is queued again when it is announced again: a forged
        message, sent before the build exists, must not block the build's own id. So is an entry of
        which some images were left out: those that have a job get no other. `any_age` exempts the
        entry from the age limit. Return the entry's state before the call.
        """
        before = self.known(entry)
        if any_age and before is not EntryState.TAKEN:
            self._age_exemptions.add(entry)
        if before in (EntryState.EMPTY, EntryState.PARTLY):
            self._client.delete_workflow(entry)
        if before in ASKED_AGAIN:
            self._client.enqueue(
                {"queue_name": INTAKE_QUEUE, "workflow_name": INTAKE, "workflow_id": entry}, entry
            )
        return before

    def known(self, entry: str) -> EntryState:
        """Return the state of an entry."""
        for row in self._client.list_workflows(workflow_ids=[entry], load_input=False):
            if row.status not in ("SUCCESS", "ERROR"):
                return EntryState.QUEUED
            return self._ended(entry, row.status, bool(row.output))
        return EntryState.NEW

    def _ended(self, entry: str, status: str, submitted: bool) -> EntryState:
        """Return the state of an entry whose workflow has ended; `submitted` if it made jobs."""
        if status == "ERROR":
            return EntryState.EMPTY
        images = self._images.of(entry)
        if not images:
            return EntryState.PARTLY if submitted else EntryState.EMPTY
        if not any(images.values()):
            return EntryState.EMPTY
        return EntryState.TAKEN if all(images.values()) else EntryState.PARTLY

    def submit(self, image: RawImage) -> str | None:
        """Queue the publishing of an image; return its job, or None when it has one already."""
        return self._store.add_job(
            image, queue=lambda connection, run: self._publish(connection, image.job, run)
        )

    def upload(self, known: Known, *, on_purpose: bool = False) -> Submission:
        """Queue the publishing of an image that an operator uploads by its URL.

        An image that has a job already is queued only `on_purpose`.
        """
        submission = self._store.add_upload(known, queue=self._publish, on_purpose=on_purpose)
        if submission.run is not None:
            # A scheduled retry was for the image as it was described before.
            self._retries.forget(submission.job)
        return submission

    def retry(self, job: str) -> int | None:
        """Queue an ended job's next run; return its number, or None when none can be queued."""
        run = self._store.next_run(
            job, queue=lambda connection, run: self._publish(connection, job, run)
        )
        if run is not None:
            # After an operator's retry, automatic retries are counted from one again.
            self._retries.forget(job)
        return run

    def add_region(self, job: str, region: str, by: str) -> int | None:
        """Queue the run of a complete job that publishes its image in a further region.

        Return its number, or None when none can be queued. `by` is the person who asked for it.
        """

        def queue(connection: sa.Connection, run: int) -> None:
            self._added.add(connection, job, region, run, by)
            self._publish(connection, job, run)

        run = self._store.next_run(job, queue=queue, complete=True)
        if run is not None:
            self._retries.forget(job)
        return run

    def begin_due(self) -> None:
        """Queue the scheduled retries that are due."""
        self._retries.wake()
        for retry in self._retries.due():
            begin = self._run_again if retry.what is RetryKind.RUN else self._clean_again
            queued = begin(retry)
            row = self._store.job(retry.job)
            # During the run's own clean-up the retry has to wait; a newer run replaces it.
            if queued or row is None or row.run != retry.run:
                self._retries.begun(retry)

    def _run_again(self, retry: ScheduledRetry) -> bool:
        run = self._store.next_run(
            retry.job,
            queue=lambda connection, run: self._publish(connection, retry.job, run),
            behind=retry.run,
        )
        return run is not None

    def _clean_again(self, retry: ScheduledRetry) -> bool:
        def queue(connection: sa.Connection, state: str, error: str | None) -> object:
            arguments = (retry.job, retry.run, state, error, False, retry.count)
            name = f"{workflow_id(CLEAN, retry.job, retry.run)}:{retry.count}"
            return self._queue(connection, CLEAN_QUEUE, CLEAN, name, *arguments)

        return self._store.clean_again(retry.job, retry.run, queue=queue)

    def cancel(self, job: str) -> bool:
        """End a live job and queue its clean-up, or give up what an ended job was still to do.

        That is its scheduled run, and its added regions.

        Return False when there is nothing to cancel.
        """
        run = self._store.cancel(
            job,
            queue=lambda connection, run: self._clean(connection, job, run, "cancelled", None),
        )
        if run is None:
            row = self._store.job(job)
            scheduled, added = self._retries.give_up(job), self._added.give_up(job)
            if row is None or not (scheduled or added):
                return False
            self._retries.remove_kept(job, row.run)
            return True
        self._client.cancel_workflow(workflow_id(PUBLISH, job, run))
        return True

    def change(self, what: str, job: str, region: str, at: float, tries: int) -> ChangeTry:
        """Queue a try of a change of a job's AMIs in a region, unless it is queued already.

        It has to wait for any other change of them that is queued or running, also on a worker that
        was killed: a command replaces changes whose calls to EC2 may still be on their way.
        """
        place = f":{job}:{region}:"
        name = f"{CHANGE}{what}{place}{at}:{tries}"
        with self._store.engine.begin() as connection:
            # Another worker may have become the leader meanwhile.
            self._store.lock(connection, _CHANGES_LOCK)
            for row in self._client.list_workflows(
                workflow_ids=[name], load_input=False, load_output=False
            ):
                return ChangeTry.QUEUED if row.status in _ACTIVE else ChangeTry.ENDED
            prefixes = [f"{CHANGE}{each}{place}" for each in CHANGES]
            active = self._client.list_workflows(
                workflow_id_prefix=prefixes,
                status=list(_ACTIVE),
                load_input=False,
                load_output=False,
            )
            # A prefix may hold wildcards of SQL.
            if any(row.workflow_id.startswith(tuple(prefixes)) for row in active):
                return ChangeTry.BUSY
            self._queue(connection, LIFE_QUEUE, f"{CHANGE}{what}", name, job, region, at)
        return ChangeTry.QUEUED

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
        """Queue the clean-up of a run, after which the job is in `state`; return False if not live.

        `later` says that another run may succeed without anybody's help, `unknown` that it is not
        known whether it may.
        """
        return self._store.finish(
            job,
            run,
            queue=lambda connection, run: self._clean(connection, job, run, state, error, later),
            unknown=unknown,
        )

    def running_of_other_versions(self, version: str, living: Collection[str] = ()) -> list[str]:
        """Return the running workflows of other versions' workers, except of the `living` workers.

        `version` is DBOS's application version; `living` holds names of workers.
        """
        pending = self._client.list_workflows(status="PENDING", load_input=False, load_output=False)
        return [
            each.workflow_id
            for each in pending
            if each.app_version not in (None, version) and each.executor_id not in living
        ]

    def queued_for_other_versions(self, versions: Collection[str]) -> list[str]:
        """Return the queued workflows that no worker of these versions executes."""
        waiting = self._client.list_workflows(
            status="ENQUEUED", load_input=False, load_output=False
        )
        return [each.workflow_id for each in waiting if each.app_version not in (None, *versions)]

    @property
    def engine(self) -> sa.Engine:
        """The database's engine, for statements that name tables of DBOS as well."""
        return self._client._sys_db.engine

    def latest_version(self) -> sa.ColumnElement[str]:
        """Return the column of the version to whose workers DBOS assigns new runs."""
        versions = self._client._sys_db.tables.application_versions
        latest = sa.select(versions.c.version_name).order_by(versions.c.version_timestamp.desc())
        return latest.limit(1).scalar_subquery()

    def queue_again(self, connection: sa.Connection, job: str, run: int) -> None:
        """Queue a run that is queued in another database."""
        self._publish(connection, job, run)

    def entries(self) -> list[str]:
        """Return the entries that wait in the queue or that a worker is resolving."""
        waiting = self._client.list_workflows(
            name=INTAKE, status=["ENQUEUED", "PENDING"], load_input=False, load_output=False
        )
        return [each.workflow_id for each in waiting]

    def cleaning(self) -> bool:
        """Return whether a clean-up is queued or running."""
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
        """Put a dead worker's running workflows back into their queues; return their ids.

        Their recorded steps stay. Only the holder of the dead worker's lock may call this.
        """
        pending = self._client.list_workflows(
            status="PENDING", executor_id=worker, load_input=False, load_output=False
        )
        for queue in sorted({each.queue_name for each in pending if each.queue_name}):
            ids = [each.workflow_id for each in pending if each.queue_name == queue]
            self._client.resume_workflows(ids, queue_name=queue)
        return [each.workflow_id for each in pending]

    def forget_ended(self, before: float) -> int:
        """Delete the workflows that ended before a time, in epoch seconds; return how many.

        An entry that is announced once more is then resolved again, and its images have jobs.
        """
        deleted = 0
        while ended := self._client.list_workflows(
            status=["SUCCESS", "ERROR", "CANCELLED"],
            completed_before=datetime.fromtimestamp(before, UTC).isoformat(),
            limit=_DELETED_AT_ONCE,
            load_input=False,
            load_output=False,
        ):
            self._client.delete_workflows([workflow.workflow_id for workflow in ended])
            deleted += len(ended)
        self._images.forget(before)
        return deleted

    def _publish(self, connection: sa.Connection, job: str, run: int) -> object:
        name = workflow_id(PUBLISH, job, run)
        self._added.next_run(connection, job, run)
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
        arguments = (job, run, state, error, later)
        return self._queue(connection, CLEAN_QUEUE, CLEAN, name, *arguments)

    def _queue(
        self, connection: sa.Connection, queue: str, workflow: str, name: str, *arguments: object
    ) -> object:
        return self._client.enqueue_in_transaction(
            connection,
            {"queue_name": queue, "workflow_name": workflow, "workflow_id": name},
            *arguments,
        )


def workflow_id(workflow: str, job: str, run: int) -> str:
    """Return the id of the workflow that publishes a run of a job, or that cleans up after it."""
    return f"{workflow}:{job}:{run}"
