"""Keep which images of an entry were chosen, and which the site's settings left out."""

from __future__ import annotations

import time
from collections.abc import Collection

import sqlalchemy as sa

from fedimg.store.database import Database
from fedimg.store.tables import entry_images


class EntryImages:
    """The images of each entry, in the database as they were decided when its source last told."""

    def __init__(self, database: Database) -> None:
        self._engine = database.engine

    def record(self, entry: str, chosen: Collection[str], left_out: Collection[str]) -> None:
        """Replace an entry's record: the names of its chosen images, and of those left out.

        `left_out` holds the images that another setting would choose, and no others.
        """
        now = time.time()
        rows = [
            {"entry": entry, "name": name, "chosen": name in chosen, "at": now}
            for name in sorted({*chosen, *left_out})
        ]
        with self._engine.begin() as connection:
            connection.execute(sa.delete(entry_images).where(entry_images.c.entry == entry))
            if rows:
                connection.execute(sa.insert(entry_images), rows)

    def of(self, entry: str) -> dict[str, bool]:
        """Return whether each image of an entry was chosen; empty if none was recorded."""
        query = sa.select(entry_images.c.name, entry_images.c.chosen)
        with self._engine.connect() as connection:
            rows = connection.execute(query.where(entry_images.c.entry == entry)).all()
        return {row.name: bool(row.chosen) for row in rows}

    def forget(self, before: float) -> None:
        """Delete the records that are older than a time, in epoch seconds."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(entry_images).where(entry_images.c.at < before))
