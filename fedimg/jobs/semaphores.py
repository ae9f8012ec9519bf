"""What there may be only so many of at once, whichever workers they belong to: counted places.

A place belongs to a job, and not to a worker: whoever takes the job over has it, and a job's
clean-up gives all back. Jobs that wait for one stand in line.
"""

from __future__ import annotations

import sqlalchemy as sa

from fedimg.store.store import Store
from fedimg.store.tables import slots


class Semaphores:
    """The places that are taken and the lines for them, in the database."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def acquire(self, kind: str, job: str, limit: int) -> bool:
        """Whether the job has one of `limit` places; else it stands in line for one.

        Whoever asked first has it first, however often others ask. Who does not wait any more has
        to `free` it.
        """
        # Numbers, not times: with two machines' clocks a late one could come before who has it.
        last = sa.select(sa.func.coalesce(sa.func.max(slots.c.turn), 0)).where(slots.c.kind == kind)
        first = (
            sa.select(slots.c.job)
            .where(slots.c.kind == kind)
            .order_by(slots.c.turn, slots.c.job)
            .limit(limit)
        )
        with self._store.engine.begin() as connection:
            self._store.serialise(connection, f"slots:{kind}")
            # The insert comes first: on SQLite it keeps others out.
            connection.execute(
                self._store.insert(slots)
                .values(kind=kind, job=job, turn=last.scalar_subquery() + 1)
                .on_conflict_do_nothing()
            )
            return job in connection.execute(first).scalars().all()

    def release(self, kind: str, job: str) -> None:
        """Give a job's place back, or leave the line."""
        with self._store.engine.begin() as connection:
            connection.execute(sa.delete(slots).where(slots.c.kind == kind, slots.c.job == job))

    def release_all(self, job: str) -> None:
        """Give back whatever places a job has, and leave all lines."""
        with self._store.engine.begin() as connection:
            connection.execute(sa.delete(slots).where(slots.c.job == job))
