"""Record in which regions a complete job was asked to publish its image afterwards."""

from __future__ import annotations

import time

import sqlalchemy as sa

from fedimg.progress import DONE
from fedimg.store.database import Database
from fedimg.store.rows import CLEANING
from fedimg.store.tables import added, jobs, regions


class AddedRegions:
    """The added regions of all jobs, each with the job's run that publishes there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, connection: sa.Connection, job: str, region: str, run: int, by: str) -> None:
        """Record that a run of a job publishes in a region, by a person's word."""
        values = {"run": run, "at": time.time(), "by": by, "done": False}
        connection.execute(
            self._database.insert(added)
            .values(job=job, region=region, **values)
            .on_conflict_do_update(index_elements=["job", "region"], set_=values)
        )

    def next_run(self, connection: sa.Connection, job: str, run: int) -> None:
        """Have a later run of a job publish in those regions in which no run has."""
        connection.execute(
            sa.update(added).where(added.c.job == job, ~added.c.done).values(run=run)
        )

    def of(self, job: str, run: int) -> list[str]:
        """Return the regions in which this run of a job publishes, and nothing else."""
        query = sa.select(added.c.region).where(added.c.job == job, added.c.run == run)
        with self._database.engine.connect() as connection:
            return list(connection.execute(query.order_by(added.c.region)).scalars())

    def settle(self, job: str) -> None:
        """Record in which of the regions the job is public now."""
        public = sa.select(regions.c.region).where(regions.c.job == job, regions.c.step.in_(DONE))
        self._database.write(
            sa.update(added)
            .where(added.c.job == job, ~added.c.done, added.c.region.in_(public))
            .values(done=True)
        )

    def give_up(self, job: str) -> bool:
        """Record that an ended job publishes in none of its added regions any more.

        It is complete then, as it was before. Return False when no addition waits for a run, or the
        job is not incomplete or is being cleaned up.
        """
        pending = sa.and_(added.c.job == job, ~added.c.done)
        with self._database.engine.begin() as connection:
            restored = connection.execute(
                sa.update(jobs)
                .where(jobs.c.job == job, jobs.c.state == "incomplete", jobs.c.step != CLEANING)
                .where(sa.exists().where(pending))
                .values(state="complete", step="complete", error=None, updated=time.time())
            ).rowcount
            if restored:
                connection.execute(sa.update(added).where(pending).values(done=True))
        return bool(restored)
