"""The entries that are published however long ago they finished, as somebody said so on purpose."""

from __future__ import annotations

import sqlalchemy as sa

from fedimg.store.store import Store
from fedimg.store.tables import age_exempt


class AgeExemptions:
    """They are in the database until they have been asked for."""

    def __init__(self, store: Store) -> None:
        self._engine = store.engine
        self._insert = store.insert

    def add(self, entry: str) -> None:
        """Let an entry be as old as it is."""
        with self._engine.begin() as connection:
            connection.execute(
                self._insert(age_exempt).values(entry=entry).on_conflict_do_nothing()
            )

    def has(self, entry: str) -> bool:
        """Whether an entry may be as old as it is."""
        with self._engine.connect() as connection:
            found = connection.execute(
                sa.select(age_exempt.c.entry).where(age_exempt.c.entry == entry)
            )
            return found.first() is not None

    def drop(self, entry: str) -> None:
        """Hold an entry to the limit again, when it is announced once more."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(age_exempt).where(age_exempt.c.entry == entry))
