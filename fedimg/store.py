"""The database behind queue and outbox: its engine, and what is read and written there."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.sqlite import insert

from fedimg.images import AMI, RawImage
from fedimg.observer import FAILED, PUBLIC, CheckResult
from fedimg.rows import (
    CLEANING,
    ENDED,
    LIVE,
    AMIRow,
    Announcement,
    BootTestRow,
    JobRow,
    RefusedRow,
    RegionRow,
)
from fedimg.tables import again
from fedimg.tables import amis as _amis
from fedimg.tables import jobs as _jobs
from fedimg.tables import metadata as _metadata
from fedimg.tables import outbox as _outbox
from fedimg.tables import refused as _refused
from fedimg.tables import regions as _regions
from fedimg.tables import tests as _tests

#: How long, in seconds, it is remembered that messages were refused.
REFUSED_KEPT = 30 * 86400

#: Puts a job's run on the queue within the given transaction, so that both happen or neither.
Queue = Callable[[sa.Connection, int], object]


class StoreError(Exception):
    """The database cannot be used; the text says where it is and what to do."""


class Store:
    """What fedimg remembers, in one SQLite file below the state directory.

    Raises StoreError on opening when the directory cannot be written, is full, or holds
    something that is no database of fedimg's.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "fedimg.db"
        self.engine = _engine(self.path)
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            # The queue's own tables come first: a consumer may well start before any worker.
            if not sa.inspect(self.engine).has_table("dbos_migrations"):
                # Slow to import, and needed this once: `fedimg status` should not wait for it.
                from dbos import DBOS

                DBOS.migrate(str(self.engine.url))
            if set(_metadata.tables) - set(sa.inspect(self.engine).get_table_names()):
                self._create_tables()
        except (OSError, sa.exc.DatabaseError) as error:
            raise StoreError(
                f"cannot use the database {self.path}: {getattr(error, 'orig', None) or error}; "
                "check state_directory, its owner and the free space there"
            ) from error

    def close(self) -> None:
        """Let go of the file."""
        self.engine.dispose()

    def on_failure(self, tell: Callable[[BaseException], object]) -> None:
        """Have `tell` called with the reason, in any thread, when the file fails.

        The disk may be full, say, the file gone, or held by another process for too long. That a
        row is there already is no failure.
        """

        @event.listens_for(self.engine, "handle_error")
        def look(context: sa.ExceptionContext) -> None:
            error = context.original_exception
            # What is no more than DatabaseError is damage to the file itself.
            if type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError):
                tell(error)

    def _create_tables(self) -> None:
        with self.engine.begin() as connection:
            # Bus and worker may both be the first: the second finds the tables made.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            _metadata.create_all(connection)

    # Jobs

    def add_job(self, image: RawImage, *, queue: Queue) -> str | None:
        """Remember a job and queue its first run; None when its image has a job already.

        The same bytes announced by a second source are the first source's job, unless that one
        failed or was cancelled.
        """
        now = time.time()
        with self.engine.connect() as connection, connection.begin() as transaction:
            # The insert comes first: it takes the write lock, so that no twin slips in behind.
            added = connection.execute(
                insert(_jobs)
                .values(
                    job=image.job,
                    image=image.name,
                    raw_image=image.to_json(),
                    checksum=image.checksum,
                    run=1,
                    tries=0,
                    state="queued",
                    step="queued",
                    created=now,
                    updated=now,
                )
                .on_conflict_do_nothing()
            )
            if added.rowcount == 0 or connection.execute(_twins(image.job, image.checksum)).first():
                transaction.rollback()
                return None
            queue(connection, 1)
        return image.job

    def twin(self, image: RawImage) -> str | None:
        """Another image's job for the same bytes, which has published them or still may."""
        with self.engine.connect() as connection:
            found = connection.execute(_twins(image.job, image.checksum)).first()
        return None if found is None else str(found.job)

    def correct(self, image: RawImage, *, queue: Queue) -> int | None:
        """Queue the next run of a job that came to nothing, with what is said of its image now.

        None when the job is live or has published something, or a twin has.
        """
        return self._next_run(
            image.job,
            _jobs.c.state.in_(("failed", "cancelled")) & ~_published(image.job),
            {"raw_image": image.to_json(), "checksum": image.checksum},
            image.checksum,
            queue,
        )

    def next_run(self, job: str, *, queue: Queue, behind: int | None = None) -> int | None:
        """Queue an ended job's next run, only `behind` a certain one if that is named.

        None when the job is live or complete already.

        So it is when another source's job for the same bytes is, and until a cancelled job is
        cleaned up: its next run must not meet that.
        """
        which = sa.and_(
            _jobs.c.state.in_(("incomplete", "failed", "cancelled")),
            sa.true() if behind is None else _jobs.c.run == behind,
        )
        return self._next_run(job, which, {}, _jobs.c.checksum, queue)

    def _next_run(
        self,
        job: str,
        which: sa.ColumnElement[bool],
        values: dict[str, Any],
        checksum: str | sa.Column[str | None] | None,
        queue: Queue,
    ) -> int | None:
        with self.engine.begin() as connection:
            changed = connection.execute(
                sa.update(_jobs)
                .where(_jobs.c.job == job, _jobs.c.step != CLEANING, which)
                .where(~_twins(_jobs.c.job, checksum).exists())
                .values(
                    run=_jobs.c.run + 1,
                    state="queued",
                    step="queued",
                    error=None,
                    updated=time.time(),
                    **values,
                )
                .returning(_jobs.c.run)
            ).first()
            if changed is None:
                return None
            queue(connection, int(changed.run))
            return int(changed.run)

    def begin(self, job: str, run: int) -> int | None:
        """Note that a run is worked on; how often the job was by now, 1 the first time.

        None when the run is not the job's live one, as it was cancelled before it began, or has
        come to its clean-up.
        """
        with self.engine.begin() as connection:
            changed = connection.execute(
                sa.update(_jobs)
                .where(_jobs.c.job == job, _jobs.c.run == run, _jobs.c.state.in_(LIVE))
                .where(_jobs.c.step != CLEANING)
                .values(
                    tries=_jobs.c.tries + 1, state="running", step="started", updated=time.time()
                )
                .returning(_jobs.c.tries)
            ).first()
        return None if changed is None else int(changed.tries)

    def set_step(self, job: str, step: str) -> None:
        """Note which step a live job is at."""
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(_jobs)
                .where(_jobs.c.job == job, _jobs.c.state.in_(LIVE))
                .values(step=step, updated=time.time())
            )

    def finish(self, job: str, run: int, *, queue: Queue) -> bool:
        """Note that only the clean-up of a run is left, and queue it; False if it is not live."""
        return self._end_run(
            job, _jobs.c.run == run, {"step": CLEANING}, lambda c, _run: queue(c, run)
        )

    def clean_again(
        self, job: str, run: int, *, queue: Callable[[sa.Connection, str, str | None], object]
    ) -> bool:
        """Queue another clean-up behind an ended run, with its state and error; False if it is not
        the last one, or is live.
        """
        with self.engine.begin() as connection:
            changed = connection.execute(
                sa.update(_jobs)
                .where(_jobs.c.job == job, _jobs.c.run == run)
                .where(_jobs.c.state.in_(ENDED), _jobs.c.step != CLEANING)
                .values(step=CLEANING)
                .returning(_jobs.c.state, _jobs.c.error)
            ).first()
            if changed is None:
                return False
            queue(connection, str(changed.state), changed.error)
        return True

    def end(self, job: str, run: int, state: str, error: str | None) -> None:
        """Note how a run ended, its clean-up done; a cancelled one stays so."""
        with self.engine.begin() as connection:
            ended = connection.execute(
                sa.update(_jobs)
                .where(_jobs.c.job == job, _jobs.c.run == run)
                .where((_jobs.c.state != "cancelled") | (state == "cancelled"))
                .values(state=state, step=state, error=error, updated=time.time())
            )
            if ended.rowcount:
                # Where nothing is public and nothing went wrong, the run was broken off.
                connection.execute(
                    sa.update(_regions)
                    .where(_regions.c.job == job, _regions.c.step.not_in((PUBLIC, FAILED)))
                    .values(step=state, detail="")
                )
                connection.execute(
                    sa.delete(_tests).where(_tests.c.job == job, _tests.c.status == "started")
                )

    def cancel(self, job: str, *, queue: Queue) -> int | None:
        """Mark a live job cancelled and queue its clean-up; its run.

        None when the job is not live, or has come to its clean-up anyway.
        """
        runs: list[int] = []

        def note(connection: sa.Connection, run: int) -> None:
            runs.append(run)
            queue(connection, run)

        values = {"state": "cancelled", "step": CLEANING}
        self._end_run(job, _jobs.c.step != CLEANING, values, note)
        return runs[0] if runs else None

    def _end_run(
        self, job: str, which: sa.ColumnElement[bool], values: dict[str, Any], queue: Queue
    ) -> bool:
        with self.engine.begin() as connection:
            changed = connection.execute(
                sa.update(_jobs)
                .where(_jobs.c.job == job, _jobs.c.state.in_(LIVE), which)
                .values(updated=time.time(), **values)
                .returning(_jobs.c.run)
            ).first()
            if changed is None:
                return False
            queue(connection, int(changed.run))
        return True

    def set_region(
        self, job: str, region: str, *, step: str, detail: str = "", error: str | None = None
    ) -> None:
        """Note where a job stands in one region."""
        values = {"step": step, "detail": detail, "error": error, "updated": time.time()}
        with self.engine.begin() as connection:
            connection.execute(
                insert(_regions)
                .values(job=job, region=region, **values)
                .on_conflict_do_update(index_elements=["job", "region"], set_=values)
            )

    def set_test(
        self, job: str, ami: AMI, status: str, checks: Iterable[CheckResult], output: str
    ) -> None:
        """Note how the boot check of an AMI stands."""
        key = {
            "job": job,
            "region": ami.region,
            "virt_type": str(ami.type.virtualization),
            "volume_type": ami.type.volume_type,
        }
        values = {
            "ami": ami.id,
            "status": status,
            "checks": [check.to_json() for check in checks],
            "output": output,
            "updated": time.time(),
        }
        with self.engine.begin() as connection:
            connection.execute(
                insert(_tests)
                .values(**key, **values)
                .on_conflict_do_update(index_elements=list(key), set_=values)
            )

    def job(self, job: str) -> JobRow | None:
        """One job with its regions and boot checks."""
        return next(iter(self._read_jobs(_jobs.c.job == job)), None)

    def jobs(self, states: Iterable[str] | None = None) -> list[JobRow]:
        """All jobs with their regions, or those in some states; oldest first."""
        return self._read_jobs(sa.true() if states is None else _jobs.c.state.in_(tuple(states)))

    def _read_jobs(self, which: sa.ColumnElement[bool]) -> list[JobRow]:
        chosen = sa.select(_jobs.c.job).where(which)
        with self.engine.connect() as connection:
            jobs = connection.execute(
                sa.select(_jobs).where(which).order_by(_jobs.c.created, _jobs.c.job)
            ).all()
            nexts = connection.execute(
                sa.select(again.c.job, again.c.due).where(
                    again.c.job.in_(chosen), again.c.what == "run", ~again.c.begun
                )
            ).all()
            regions = connection.execute(
                sa.select(_regions).where(_regions.c.job.in_(chosen)).order_by(_regions.c.region)
            ).all()
            tests = connection.execute(
                sa.select(_tests).where(_tests.c.job.in_(chosen)).order_by(*_tests.primary_key)
            ).mappings()
            examined = [dict(row) for row in tests]
        due = {row.job: float(row.due) for row in nexts}
        rows = {
            row.job: JobRow(
                job=row.job,
                image=RawImage.from_json(row.raw_image),
                run=row.run,
                state=row.state,
                step=row.step,
                error=row.error,
                created=row.created,
                updated=row.updated,
                next=due.get(row.job) if row.state in ENDED else None,
            )
            for row in jobs
        }
        for row in regions:
            # A job that came in between the two reads has no row yet.
            if row.job in rows:
                rows[row.job].regions.append(
                    RegionRow(row.region, row.step, row.detail, row.error, row.updated)
                )
        for test in examined:
            if mine := rows.get(test.pop("job")):
                results = [CheckResult.from_json(check) for check in test.pop("checks")]
                mine.tests.append(BootTestRow(checks=results, **test))
        return list(rows.values())

    # AMIs

    def record_ami(self, image: RawImage, ami: AMI) -> None:
        """Remember an AMI that was registered; it is private."""
        row = AMIRow(
            image=image.name,
            job=image.job,
            region=ami.region,
            ami=ami.id,
            name=ami.name,
            architecture=image.architecture,
            virt_type=ami.type.virtualization,
            volume_type=ami.type.volume_type,
            snapshot=ami.snapshot,
            public=False,
        )
        with self.engine.begin() as connection:
            connection.execute(insert(_amis).values(**vars(row)).on_conflict_do_nothing())

    def publish_ami(self, ami: AMI) -> None:
        """Remember that an AMI is public."""
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(_amis)
                .where(_amis.c.ami == ami.id, _amis.c.region == ami.region)
                .values(public=True)
            )

    def forget_ami(self, ami: str, region: str) -> None:
        """Remember that an AMI was removed again."""
        with self.engine.begin() as connection:
            connection.execute(sa.delete(_amis).where(_amis.c.ami == ami, _amis.c.region == region))

    def amis(self) -> list[AMIRow]:
        """Every AMI that there is, by image, region and name."""
        order = (_amis.c.image, _amis.c.region, _amis.c.name)
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(_amis).order_by(*order)).mappings().all()
        return [AMIRow(**row) for row in rows]

    # Outbox

    def announce(self, key: str, topic: str, body: dict[str, Any]) -> None:
        """Put a message in the outbox; one with the same key is there, or was sent, already."""
        with self.engine.begin() as connection:
            connection.execute(
                insert(_outbox)
                .values(key=key, topic=topic, body=body, created=time.time())
                .on_conflict_do_nothing()
            )

    def unannounced(self, limit: int = 100) -> list[Announcement]:
        """Messages that the bus has not been seen to take, oldest first."""
        query = (
            sa.select(_outbox.c.id, _outbox.c.key, _outbox.c.topic, _outbox.c.body)
            .where(_outbox.c.announced.is_(None))
            .order_by(_outbox.c.id)
            .limit(limit)
        )
        with self.engine.connect() as connection:
            return [Announcement(**row) for row in connection.execute(query).mappings()]

    def announced(self, ids: Iterable[int]) -> None:
        """These messages were seen on the bus."""
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(_outbox)
                .where(_outbox.c.id.in_(list(ids)), _outbox.c.announced.is_(None))
                .values(announced=time.time())
            )

    # Messages that nobody vouched for

    def note_refused(self, counts: Mapping[str, int]) -> None:
        """Count messages of the bus that were not believed, by their fault."""
        now = time.time()
        rows = [{"fault": fault, "count": count, "at": now} for fault, count in counts.items()]
        with self.engine.begin() as connection:
            connection.execute(sa.delete(_refused).where(_refused.c.at < now - REFUSED_KEPT))
            connection.execute(sa.insert(_refused), rows)

    def refused(self, since: float) -> list[RefusedRow]:
        """What was refused since a time, in seconds since the epoch; by fault."""
        total, last = sa.func.sum(_refused.c.count), sa.func.max(_refused.c.at)
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(_refused.c.fault, total, last)
                .where(_refused.c.at >= since)
                .group_by(_refused.c.fault)
                .order_by(_refused.c.fault)
            ).all()
        return [RefusedRow(fault, int(count), at) for fault, count, at in rows]

    def forget_announced(self, before: float) -> int:
        """Forget the texts of what the bus took before this time; how many.

        That it was announced is remembered: a job that is retried says nothing twice.
        """
        with self.engine.begin() as connection:
            return connection.execute(
                sa.update(_outbox)
                .where(_outbox.c.announced < before, sa.func.length(_outbox.c.body) > len("{}"))
                .values(body={})
            ).rowcount


def _published(job: str) -> sa.Exists:
    return sa.exists().where(_amis.c.job == job, _amis.c.public)


def _twins(
    job: str | sa.Column[str], checksum: str | sa.Column[str | None] | None
) -> sa.Select[tuple[str]]:
    """Other jobs for the same bytes, which have published them or still may."""
    other = _jobs.alias()
    return sa.select(other.c.job).where(
        other.c.checksum == checksum,
        other.c.checksum.is_not(None),
        other.c.job != job,
        other.c.state.not_in(("failed", "cancelled")),
    )


def _engine(path: Path) -> sa.Engine:
    # Not by text: a path may hold what means something in a URL.
    where = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(
        where,
        # Each region of each job writes in a thread of its own. Past a few connections they only
        # wait at SQLite's lock, where chance decides; here it is first come, first served.
        pool_size=10,
        max_overflow=0,
        pool_timeout=300,
        json_serializer=_dumps,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=30000")
        connection.execute("PRAGMA foreign_keys=ON")
        if connection.execute("SELECT unixepoch('subsec')").fetchone()[0] is None:
            # SQLite before 3.42 has no sub-seconds; DBOS counts on them.
            connection.create_function(
                "unixepoch", -1, lambda *form: time.time() if form else int(time.time())
            )

    return engine


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
