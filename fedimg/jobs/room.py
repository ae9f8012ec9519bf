"""Continue the jobs that wait for room for public AMIs, once their regions have it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from fedimg.jobs.retries import RetryKind
from fedimg.progress import DONE, NO_ROOM
from fedimg.store.database import Database
from fedimg.store.rows import LIVE
from fedimg.store.tables import amis, jobs, of_run, regions, retries


@dataclass(frozen=True)
class RoomWait:
    """A job that waits for room for so many public AMIs in a region."""

    job: str
    region: str
    needs: int


class RoomWaits:
    """The jobs that wait for room, in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[RoomWait]:
        """Return the jobs that wait, the oldest first."""
        query = (
            sa.select(regions.c.job, regions.c.region, regions.c.needs)
            .join(jobs, jobs.c.job == regions.c.job)
            .join(retries, retries.c.job == regions.c.job)
            .where(regions.c.step == NO_ROOM, of_run(retries.c.run))
            .where(retries.c.what == RetryKind.RUN, ~retries.c.begun)
            .order_by(jobs.c.created, regions.c.job, regions.c.region)
        )
        with self._database.engine.connect() as connection:
            return [RoomWait(*row) for row in connection.execute(query)]

    def _taken(self) -> dict[str, int]:
        """Return by region how many AMIs of queued and running jobs are to become public there."""
        public = (
            sa.select(sa.func.count())
            .where(amis.c.job == regions.c.job, amis.c.region == regions.c.region, amis.c.public)
            .scalar_subquery()
        )
        query = (
            sa.select(regions.c.region, regions.c.needs, public)
            .join(jobs, jobs.c.job == regions.c.job)
            .where(jobs.c.state.in_(LIVE), regions.c.step.not_in(DONE), regions.c.needs > 0)
        )
        taken: dict[str, int] = {}
        with self._database.engine.connect() as connection:
            for region, needs, done in connection.execute(query):
                taken[region] = taken.get(region, 0) + max(0, needs - done)
        return taken

    def wake(self, left: Callable[[str], float | None]) -> list[RoomWait]:
        """Make the next runs of those jobs due that have room now; return what they waited for.

        `left` returns how many more AMIs may be public in a region, or None if that is not known:
        then its jobs wait on. Of several jobs the oldest ones go first, and all go behind the jobs
        that are queued or run: their AMIs that are not public yet take room.
        """
        waits = self.all()
        taken = self._taken() if waits else {}
        room = {
            region: (left(region) or 0.0) - taken.get(region, 0)
            for region in {wait.region for wait in waits}
        }
        woken = []
        for wait in waits:
            here = room[wait.region]
            if here >= wait.needs:
                woken.append(wait)
            # A younger job that needs less does not overtake an older one.
            room[wait.region] = max(0.0, here - wait.needs)
        if woken:
            now = time.time()
            waiting = retries.c.job.in_({wait.job for wait in woken}) & (retries.c.due > now)
            with self._database.engine.begin() as connection:
                connection.execute(
                    sa.update(retries).where(waiting, ~retries.c.begun).values(due=now)
                )
        return woken
