"""Limit how many jobs of all workers may use something at once, by semaphores in the database.

A job holds a semaphore, not a worker: a worker that takes the job over holds it too, and the job's
clean-up releases all. Jobs that wait for a semaphore get it in the order in which they asked.

By hand, as DBOS limits how many workflows of a queue run, but not what the steps of one use.
"""

from __future__ import annotations

import sqlalchemy as sa

from fedimg.store.database import Database
from fedimg.store.tables import semaphores

#: The lock of the transactions that acquire a semaphore, of any kind: all regions' copies begin at
#: the same moment, and are committed together.
_LOCK = "slots"


class Semaphores:
    """The jobs that hold or wait for each kind of semaphore, in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self, kind: str, job: str, limit: int) -> bool:
        """Return whether the job is among the `limit` holders; when it is not, it is queued.

        Call this again to wait; the order of the first calls counts. A job that does not wait any
        more has to call `release`.
        """
        # Numbers, not times: by another machine's clock a later job could overtake a holder.
        last = sa.select(sa.func.coalesce(sa.func.max(semaphores.c.turn), 0)).where(
            semaphores.c.kind == kind
        )
        first = (
            sa.select(semaphores.c.job)
            .where(semaphores.c.kind == kind)
            .order_by(semaphores.c.turn, semaphores.c.job)
            .limit(limit)
        )

        def acquire(connection: sa.Connection) -> bool:
            # The insert comes before the select, as on SQLite it excludes other writers.
            connection.execute(
                self._database.insert(semaphores)
                .values(kind=kind, job=job, turn=last.scalar_subquery() + 1)
                .on_conflict_do_nothing()
            )
            return job in connection.execute(first).scalars().all()

        return self._database.together(acquire, _LOCK)

    def release(self, kind: str, job: str) -> None:
        """Release a job's semaphore of this kind, or stop waiting for it."""
        self._database.write(
            sa.delete(semaphores).where(semaphores.c.kind == kind, semaphores.c.job == job)
        )

    def release_all(self, job: str) -> None:
        """Release all semaphores of a job, and stop waiting for others."""
        with self._database.engine.begin() as connection:
            connection.execute(sa.delete(semaphores).where(semaphores.c.job == job))
