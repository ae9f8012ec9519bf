"""Schedule the automatic retries of ended jobs: another run, or another clean-up.

They wait in a table and not as DBOS's delayed workflows: docs/architecture.md says why.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from fedimg.aws.client.error_codes import UNKNOWN_RUNS
from fedimg.config import Limits
from fedimg.process.backoff import Backoff
from fedimg.progress import AWAY, NO_ROOM, OVER_QUOTA
from fedimg.store.database import Database
from fedimg.store.tables import jobs, of_run, outages, regions, retries

#: The longest pause between two clean-ups, in seconds: resources that are left over cost money.
_LONGEST_CLEAN_UP_PAUSE = 4 * 3600.0

#: A run that waits for a region begins after so many seconds even if the region is still away.
_LONGEST_OUTAGE_PAUSE = 86400.0
#: The longest pause between two runs of a job that EC2 refuses for a quota, in seconds.
_LONGEST_QUOTA_PAUSE = 4 * 3600.0


class RetryKind(StrEnum):
    """The kind of work that is retried."""

    RUN = "run"
    CLEAN_UP = "clean-up"


@dataclass(frozen=True)
class ScheduledRetry:
    """A retry after a job's `run`, the `count`th in a row; `due` is in seconds since the epoch.

    A retry that has `begun` is kept for its counts. `unknown` counts the runs that followed an
    error of which it is not known whether it is transient.
    """

    job: str
    run: int
    what: RetryKind
    count: int
    due: float
    begun: bool = False
    unknown: int = 0


class RetrySchedule:
    """The scheduled retries of all jobs, in the database; a job has one at most."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def run(
        self, job: str, run: int, limits: Limits, *, unknown: bool = False
    ) -> ScheduledRetry | None:
        """Schedule another run after this one; each pause is twice as long as the last.

        Return None when the job has had all its retries. After `unknown` errors, of which it is not
        known whether they are transient, there are fewer.
        """
        before = self.of(job)
        if before and before.run == run:
            return before
        automatic = before and before.what is RetryKind.RUN and before.run == run - 1
        count = before.count + 1 if before and automatic else 1
        of_unknown = (before.unknown if before and automatic else 0) + unknown
        if count > limits.retries or of_unknown > UNKNOWN_RUNS:
            self.forget(job)
            return None
        pause = Backoff(limits.retry_after).pause(count)
        return self._schedule(
            ScheduledRetry(job, run, RetryKind.RUN, count, time.time() + pause, unknown=of_unknown)
        )

    def run_when_back(
        self, job: str, run: int, limits: Limits, *, refused: bool = False
    ) -> ScheduledRetry:
        """Schedule another run after this one for when a region is back or has room (`wake`).

        The run does not count as a retry: nothing but the region failed. EC2 may have `refused`
        where its figures showed room, so that only a try can tell: each pause is then as long as
        the job is old, from `retry_after` seconds to four hours.
        """
        before = self.of(job)
        if before and before.run == run:
            return before
        automatic = before and before.what is RetryKind.RUN and before.run == run - 1
        count, unknown = (before.count, before.unknown) if before and automatic else (0, 0)
        pause = _LONGEST_OUTAGE_PAUSE
        if refused:
            pause = max(limits.retry_after, min(self._age(job), _LONGEST_QUOTA_PAUSE))
        due = time.time() + pause
        return self._schedule(ScheduledRetry(job, run, RetryKind.RUN, count, due, unknown=unknown))

    def wake(self) -> None:
        """Make the runs due now that wait for a region that is back or no longer waited for."""
        away = sa.select(outages.c.region).where(
            outages.c.back.is_(None), outages.c.due.is_not(None)
        )
        back = sa.exists().where(
            regions.c.job == retries.c.job,
            regions.c.step == AWAY,
            regions.c.region.not_in(away),
            of_run(retries.c.run),
        )
        now = time.time()
        waiting = (retries.c.what == RetryKind.RUN) & ~retries.c.begun & (retries.c.due > now)
        with self._database.engine.begin() as connection:
            # Nothing is written in the usual case that no job waits.
            jobs = connection.execute(sa.select(retries.c.job).where(waiting, back)).scalars().all()
            if jobs:
                connection.execute(
                    sa.update(retries).where(retries.c.job.in_(jobs), waiting).values(due=now)
                )

    def clean_up(self, job: str, run: int, count: int, limits: Limits) -> ScheduledRetry:
        """Schedule another clean-up of a run that has had `count` scheduled ones already.

        The first comes after `limits.settle` seconds: until then EC2 may not list all resources.
        """
        pause = Backoff(limits.retry_after).pause(count) if count else limits.settle
        due = time.time() + min(pause, _LONGEST_CLEAN_UP_PAUSE)
        return self._schedule(ScheduledRetry(job, run, RetryKind.CLEAN_UP, count + 1, due))

    def remove_kept(self, job: str, run: int) -> None:
        """Schedule a clean-up now if a job that is not to run again waited for room somewhere."""
        kept = sa.select(regions.c.region).where(
            regions.c.job == job, regions.c.step.in_((NO_ROOM, OVER_QUOTA))
        )
        with self._database.engine.connect() as connection:
            if connection.execute(kept).first() is None:
                return
        self._schedule(ScheduledRetry(job, run, RetryKind.CLEAN_UP, 1, time.time()))

    def _age(self, job: str) -> float:
        query = sa.select(jobs.c.created).where(jobs.c.job == job)
        with self._database.engine.connect() as connection:
            created = connection.execute(query).scalar()
        return time.time() - created if created else 0.0

    def of(self, job: str) -> ScheduledRetry | None:
        """Return a job's retry, begun or not, or None."""
        return next(iter(self._read(retries.c.job == job)), None)

    def due(self) -> list[ScheduledRetry]:
        """Return the retries that are due and have not begun, earliest first."""
        return self._read(~retries.c.begun & (retries.c.due <= time.time()))

    def begun(self, retry: ScheduledRetry) -> None:
        """Record that a retry has begun."""
        with self._database.engine.begin() as connection:
            connection.execute(
                sa.update(retries)
                .where(retries.c.job == retry.job, retries.c.run == retry.run)
                # A clean-up may have scheduled the next one already.
                .where(retries.c.what == retry.what, retries.c.count == retry.count)
                .values(begun=True)
            )

    def forget(self, job: str) -> None:
        """Delete a job's retry and its counts."""
        with self._database.engine.begin() as connection:
            connection.execute(sa.delete(retries).where(retries.c.job == job))

    def give_up(self, job: str) -> bool:
        """Delete a job's scheduled run; return whether it had one."""
        scheduled = (retries.c.job == job) & (retries.c.what == RetryKind.RUN) & ~retries.c.begun
        with self._database.engine.begin() as connection:
            return bool(connection.execute(sa.delete(retries).where(scheduled)).rowcount)

    def _schedule(self, retry: ScheduledRetry) -> ScheduledRetry:
        values = {name: value for name, value in vars(retry).items() if name != "job"}
        with self._database.engine.begin() as connection:
            connection.execute(
                self._database.insert(retries)
                .values(job=retry.job, **values)
                .on_conflict_do_update(index_elements=["job"], set_=values)
            )
        return retry

    def _read(self, condition: sa.ColumnElement[bool]) -> list[ScheduledRetry]:
        with self._database.engine.connect() as connection:
            rows = connection.execute(sa.select(retries).where(condition).order_by(retries.c.due))
            return [
                ScheduledRetry(**{**row, "what": RetryKind(row["what"])}) for row in rows.mappings()
            ]
