"""Keep the entries that are exempt from `intake.max_age_days`."""

from __future__ import annotations

import sqlalchemy as sa

from fedimg.store.database import Database
from fedimg.store.tables import age_exempt


class AgeExemptions:
    """The exempt entries, in the database until their source has given an answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, entry: str) -> None:
        """Exempt an entry from the age limit."""
        with self._database.engine.begin() as connection:
            connection.execute(
                self._database.insert(age_exempt).values(entry=entry).on_conflict_do_nothing()
            )

    def has(self, entry: str) -> bool:
        """Return whether an entry is exempt from the age limit."""
        query = sa.select(age_exempt.c.entry).where(age_exempt.c.entry == entry)
        with self._database.engine.connect() as connection:
            return connection.execute(query).first() is not None

    def drop(self, entry: str) -> None:
        """End an entry's exemption: the age limit applies when it is announced once more."""
        with self._database.engine.begin() as connection:
            connection.execute(sa.delete(age_exempt).where(age_exempt.c.entry == entry))
