"""What there may be only so many of at once, whichever workers they belong to: counted places.

A place belongs to a job, and not to a worker: whoever takes the job over has it, and a job's
clean-up gives all back.
"""

from __future__ import annotations

import sqlalchemy as sa

from fedimg.store import Store
from fedimg.tables import slots


class Slots:
    """The places that are taken, in the database."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def take(self, kind: str, job: str, limit: int) -> bool:
        """Take a job's place, unless it has it; False while `limit` others have theirs."""
        engine = self._store.engine
        with engine.connect() as connection, connection.begin() as transaction:
            self._store.serialise(connection, f"slots:{kind}")
            # The insert comes first: on SQLite it keeps others out.
            connection.execute(
                self._store.insert(slots).values(kind=kind, job=job).on_conflict_do_nothing()
            )
            taken = connection.execute(
                sa.select(sa.func.count()).select_from(slots).where(slots.c.kind == kind)
            ).scalar_one()
            if taken > limit:
                transaction.rollback()
                return False
        return True

    def free(self, kind: str, job: str) -> None:
        """Give a job's place back."""
        with self._store.engine.begin() as connection:
            connection.execute(sa.delete(slots).where(slots.c.kind == kind, slots.c.job == job))

    def free_all(self, job: str) -> None:
        """Give back whatever places a job has."""
        with self._store.engine.begin() as connection:
            connection.execute(sa.delete(slots).where(slots.c.job == job))
