"""What a job gets when it has ended and is not well: another run, or another clean-up, later."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from fedimg.aws.client.error_codes import UNKNOWN_RUNS
from fedimg.config import Limits
from fedimg.progress import AWAY
from fedimg.store.store import Store
from fedimg.store.tables import again, outages, regions

#: The longest pause between two clean-ups, in seconds: what is left over costs money.
_LONGEST_UNCLEAN = 4 * 3600.0

#: A run that waits for a region begins after this many seconds all the same.
_LONGEST_AWAY = 86400.0


class RetryKind(StrEnum):
    """What comes later."""

    RUN = "run"
    CLEAN_UP = "clean-up"


@dataclass(frozen=True)
class ScheduledRetry:
    """The `count`th time that something comes again, behind a job's `run`.

    `due` is in seconds since the epoch. One that has begun is remembered for its counts alone, of
    which `unknown` is that of the runs after a refusal that nobody knows.
    """

    job: str
    run: int
    what: RetryKind
    count: int
    due: float
    begun: bool = False
    unknown: int = 0


class RetrySchedule:
    """The turns of all jobs, in the database; a job has one at most."""

    def __init__(self, store: Store) -> None:
        self._engine = store.engine
        self._insert = store.insert

    def run(
        self, job: str, run: int, limits: Limits, *, unknown: bool = False
    ) -> ScheduledRetry | None:
        """Another run behind this one, after a longer pause each time; None when these are over.

        Of `unknown` refusals there are fewer: nobody knows whether they pass.
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
        pause = limits.retry_after * 2 ** (count - 1)
        return self._plan(
            ScheduledRetry(job, run, RetryKind.RUN, count, time.time() + pause, unknown=of_unknown)
        )

    def run_when_back(self, job: str, run: int) -> ScheduledRetry:
        """Another run behind this one, when a region that is away is back (`wake`).

        It is not counted: nothing but the region failed.
        """
        before = self.of(job)
        if before and before.run == run:
            return before
        automatic = before and before.what is RetryKind.RUN and before.run == run - 1
        count, unknown = (before.count, before.unknown) if before and automatic else (0, 0)
        due = time.time() + _LONGEST_AWAY
        return self._plan(ScheduledRetry(job, run, RetryKind.RUN, count, due, unknown=unknown))

    def wake(self) -> None:
        """Let the runs begin now of which a region is back, or let be."""
        away = sa.select(outages.c.region).where(
            outages.c.back.is_(None), outages.c.due.is_not(None)
        )
        back = sa.exists().where(
            regions.c.job == again.c.job, regions.c.step == AWAY, regions.c.region.not_in(away)
        )
        now = time.time()
        waits = (again.c.what == RetryKind.RUN) & ~again.c.begun & (again.c.due > now)
        with self._engine.begin() as connection:
            # Most often nobody waits: then nothing is written.
            jobs = connection.execute(sa.select(again.c.job).where(waits, back)).scalars().all()
            if jobs:
                connection.execute(
                    sa.update(again).where(again.c.job.in_(jobs), waits).values(due=now)
                )

    def clean_up(self, job: str, run: int, count: int, limits: Limits) -> ScheduledRetry:
        """Another clean-up behind a run that had `count` of these already.

        The first comes when EC2 has settled: until then it may not have shown all that there is.
        """
        pause = limits.retry_after * 2 ** min(count - 1, 16) if count else limits.settle
        due = time.time() + min(pause, _LONGEST_UNCLEAN)
        return self._plan(ScheduledRetry(job, run, RetryKind.CLEAN_UP, count + 1, due))

    def of(self, job: str) -> ScheduledRetry | None:
        """A job's turn, begun or not."""
        return next(iter(self._read(again.c.job == job)), None)

    def due(self) -> list[ScheduledRetry]:
        """What is to begin now."""
        return self._read(~again.c.begun & (again.c.due <= time.time()))

    def begun(self, turn: ScheduledRetry) -> None:
        """The turn has begun."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(again)
                .where(again.c.job == turn.job, again.c.run == turn.run)
                # A clean-up may have planned the next one already.
                .where(again.c.what == turn.what, again.c.count == turn.count)
                .values(begun=True)
            )

    def forget(self, job: str) -> None:
        """Nothing comes later for this job."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(again).where(again.c.job == job))

    def give_up(self, job: str) -> bool:
        """No run comes later for this job; whether one would have."""
        waits = (again.c.job == job) & (again.c.what == RetryKind.RUN) & ~again.c.begun
        with self._engine.begin() as connection:
            return bool(connection.execute(sa.delete(again).where(waits)).rowcount)

    def _plan(self, turn: ScheduledRetry) -> ScheduledRetry:
        values = {name: value for name, value in vars(turn).items() if name != "job"}
        with self._engine.begin() as connection:
            connection.execute(
                self._insert(again)
                .values(job=turn.job, **values)
                .on_conflict_do_update(index_elements=["job"], set_=values)
            )
        return turn

    def _read(self, which: sa.ColumnElement[bool]) -> list[ScheduledRetry]:
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(again).where(which).order_by(again.c.due))
            return [
                ScheduledRetry(**{**row, "what": RetryKind(row["what"])}) for row in rows.mappings()
            ]
