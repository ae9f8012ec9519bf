"""Read and write fedimg's records: jobs and progress here, the others through base classes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa

from fedimg.images import AMI
from fedimg.progress import (
    CONTINUED,
    DONE,
    FAILED,
    FAILED_FOR_GOOD,
    LEFT_OUT,
    NO_ROOM,
    OVER_QUOTA,
    CheckResult,
)
from fedimg.records import as_record
from fedimg.store.amis import AMIs
from fedimg.store.database import StoreError
from fedimg.store.heartbeats import Heartbeats
from fedimg.store.job_lists import JobLists
from fedimg.store.outbox import Outbox
from fedimg.store.rejections import REJECTIONS_KEPT_SECONDS, Rejections
from fedimg.store.rows import (
    CLEANING,
    ENDED,
    LIVE,
)
from fedimg.store.tables import added, creation, jobs, of_run, regions, retries, tests
from fedimg.store.twins import Queue, Twins
from fedimg.store.utility_tools import UtilityTools

__all__ = ["REJECTIONS_KEPT_SECONDS", "Queue", "Store", "StoreError"]


#: The steps after which nothing more happens in a region.
_LAST_STEPS = (*DONE, FAILED, FAILED_FOR_GOOD, LEFT_OUT, *CONTINUED)


class Store(JobLists, Twins, Outbox, AMIs, Rejections, Heartbeats, UtilityTools):
    """All of fedimg's records, in one database (fedimg.store.database)."""

    def begin(self, job: str, run: int) -> int | None:
        """Record that a worker has begun a run; return how often the job has begun, from 1.

        Return None when the run is not the job's live one: it was cancelled before it began, or has
        reached its clean-up.
        """
        with self.engine.begin() as connection:
            changed = connection.execute(
                sa.update(jobs)
                .where(
                    jobs.c.job == job,
                    jobs.c.run == run,
                    jobs.c.state.in_(LIVE),
                )
                .where(jobs.c.step != CLEANING)
                .values(
                    tries=jobs.c.tries + 1,
                    state="running",
                    step="started",
                    updated=time.time(),
                )
                .returning(jobs.c.tries)
            ).first()
        return None if changed is None else int(changed.tries)

    def set_step(self, job: str, step: str) -> None:
        """Record the step of a live job."""
        self.write(
            sa.update(jobs)
            .where(jobs.c.job == job, jobs.c.state.in_(LIVE))
            .values(step=step, updated=time.time())
        )

    def finish(self, job: str, run: int, *, queue: Queue, unknown: bool = False) -> bool:
        """Record that a run has ended but for its clean-up, and queue that.

        `unknown` says that the run failed with an error of which it is not known whether it is
        transient. Return False when the run is not live.
        """
        values = {"step": CLEANING} | ({"unknown_run": run} if unknown else {})
        return self._end_run(job, jobs.c.run == run, values, lambda c, _run: queue(c, run))

    def failed_unknown(self, job: str, run: int) -> bool:
        """Return whether it is not known if the error that this run failed with is transient."""
        query = sa.select(jobs.c.unknown_run).where(jobs.c.job == job)
        with self.engine.connect() as connection:
            return bool(connection.execute(query).scalar() == run)

    def clean_again(
        self, job: str, run: int, *, queue: Callable[[sa.Connection, str, str | None], object]
    ) -> bool:
        """Queue another clean-up of a job's last run, which has ended.

        `queue` gets the run's state and error. Return False when the run is not the job's last one
        or is live.
        """
        with self.engine.begin() as connection:
            changed = connection.execute(
                sa.update(jobs)
                .where(jobs.c.job == job, jobs.c.run == run)
                .where(jobs.c.state.in_(ENDED), jobs.c.step != CLEANING)
                .values(step=CLEANING)
                .returning(jobs.c.state, jobs.c.error)
            ).first()
            if changed is None:
                return False
            queue(connection, str(changed.state), changed.error)
        return True

    def end(self, job: str, run: int, state: str, error: str | None) -> None:
        """Record the state and error of a run whose clean-up is done; cancelled runs stay so.

        A cancelled run that published in added regions leaves its job complete, as it was before.
        """
        with self.engine.begin() as connection:
            its_regions = (added.c.job == job) & (added.c.run == run)
            # Counted whether done or not, as a worker that is killed may call this again.
            given_up = (
                state == "cancelled"
                and connection.execute(
                    sa.update(added).where(its_regions).values(done=True)
                ).rowcount
            )
            ended = connection.execute(
                sa.update(jobs)
                .where(jobs.c.job == job, jobs.c.run == run)
                .where((jobs.c.state != "cancelled") | (state == "cancelled"))
                .values(
                    state="complete" if given_up else state,
                    step="complete" if given_up else state,
                    error=error,
                    updated=time.time(),
                )
            )
            if ended.rowcount:
                # In regions without a last step, the run was interrupted.
                connection.execute(
                    sa.update(regions)
                    .where(regions.c.job == job, regions.c.step.not_in(_LAST_STEPS))
                    .values(step=state, detail="")
                )
                connection.execute(
                    sa.delete(tests).where(tests.c.job == job, tests.c.status == "started")
                )

    def cancel(self, job: str, *, queue: Queue) -> int | None:
        """Mark a live job cancelled and queue its clean-up; return the run that was cancelled.

        Return None when the job is not live or has reached its clean-up already.
        """
        runs: list[int] = []

        def queue_and_keep(connection: sa.Connection, run: int) -> None:
            runs.append(run)
            queue(connection, run)

        values = {"state": "cancelled", "step": CLEANING}
        self._end_run(job, jobs.c.step != CLEANING, values, queue_and_keep)
        return runs[0] if runs else None

    def _end_run(
        self, job: str, condition: sa.ColumnElement[bool], values: dict[str, Any], queue: Queue
    ) -> bool:
        with self.engine.begin() as connection:
            changed = connection.execute(
                sa.update(jobs)
                .where(jobs.c.job == job, jobs.c.state.in_(LIVE), condition)
                .values(updated=time.time(), **values)
                .returning(jobs.c.run)
            ).first()
            if changed is None:
                return False
            queue(connection, int(changed.run))
        return True

    def set_region(
        self,
        job: str,
        region: str,
        *,
        step: str,
        detail: str = "",
        error: str | None = None,
        needs: int = 0,
    ) -> None:
        """Record a job's progress in one region, and how many AMIs it `needs` room for.

        That number stays until it is another, or the job's last step in the region.
        """
        run = sa.select(jobs.c.run).where(jobs.c.job == job).scalar_subquery()
        values = {
            "step": step,
            "detail": detail,
            "error": error,
            "updated": time.time(),
            "run": run,
        }
        if needs or step in _LAST_STEPS:
            values["needs"] = needs
        self.write(
            self.insert(regions)
            .values(job=job, region=region, **values)
            .on_conflict_do_update(index_elements=["job", "region"], set_=values)
        )

    def regions_of_run(self, job: str, run: int) -> set[str]:
        """Return the regions whose step a run of a job recorded, or an older version of fedimg."""
        query = sa.select(regions.c.region).where(regions.c.job == job, of_run(run))
        with self.engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def set_test(
        self, job: str, ami: AMI, status: str, checks: Iterable[CheckResult], output: str
    ) -> None:
        """Record the status and results of an AMI's boot check."""
        key = {
            "job": job,
            "region": ami.region,
            "virt_type": str(ami.type.virtualization),
            "volume_type": ami.type.storage,
        }
        values = {
            "ami": ami.id,
            "status": status,
            "checks": [as_record(check) for check in checks],
            "output": output,
            "updated": time.time(),
        }
        with self.engine.begin() as connection:
            connection.execute(
                self.insert(tests)
                .values(**key, **values)
                .on_conflict_do_update(index_elements=list(key), set_=values)
            )

    def kept(self) -> set[tuple[str, str]]:
        """Return the jobs and regions where what a job made is kept, as it waits there for room."""
        query = (
            sa.select(regions.c.job, regions.c.region)
            .join(jobs, jobs.c.job == regions.c.job)
            .join(retries, retries.c.job == regions.c.job)
            .where(jobs.c.state.in_(("incomplete", "failed")))
            .where(regions.c.step.in_((NO_ROOM, OVER_QUOTA)))
            .where(retries.c.what == "run", ~retries.c.begun)
        )
        with self.engine.connect() as connection:
            return {(row.job, row.region) for row in connection.execute(query)}

    def created_at(self) -> float | None:
        """Return when this database was created, in seconds since the epoch; no job is older.

        For a database that an older version created, return the time of its first job, or None
        when it has no job.
        """
        with self.engine.connect() as connection:
            created = connection.execute(sa.select(sa.func.min(creation.c.at))).scalar()
            first_job = connection.execute(sa.select(sa.func.min(jobs.c.created))).scalar()
        times = [float(each) for each in (created, first_job) if each is not None]
        return min(times) if times else None
