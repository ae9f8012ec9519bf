"""Record how far each source's lists of finished entries were read.

Times are in seconds since the epoch, by the source's clock; `Reading` has the worker's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from fedimg.store.database import Database
from fedimg.store.tables import list_readings, listed_entries, watermarks

if TYPE_CHECKING:
    # The module loads an HTTP client, and `fedimg status` does without.
    from fedimg.sources.koji_listing import FinishedEntry


@dataclass(frozen=True)
class Watermark:
    """All listed entries that finished from `begin` to `until` are queued, as far as was seen."""

    begin: float
    until: float


@dataclass(frozen=True)
class Reading:
    """The time when a list was last read to its end, by the worker's clock, and a later error."""

    name: str
    succeeded: float | None
    error: str | None


class Watermarks:
    """The watermarks of all lists, and the entries near them that were queued."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> Watermark | None:
        """Return the watermark of a list, or None when it has none yet."""
        with self._database.engine.connect() as connection:
            row = connection.execute(sa.select(watermarks).where(watermarks.c.list == name)).first()
        return None if row is None else Watermark(row.begin, row.until)

    def set(self, name: str, watermark: Watermark, stored: Iterable[FinishedEntry] = ()) -> None:
        """Move a list's watermark and record the entries that were queued, in one transaction."""
        values = {"begin": watermark.begin, "until": watermark.until}
        with self._database.engine.begin() as connection:
            for finished in stored:
                connection.execute(
                    self._database.insert(listed_entries)
                    .values(entry=finished.entry, list=name, completed=finished.completed)
                    .on_conflict_do_update(
                        index_elements=["entry"], set_={"completed": finished.completed}
                    )
                )
            connection.execute(
                self._database.insert(watermarks)
                .values(list=name, **values)
                .on_conflict_do_update(index_elements=["list"], set_=values)
            )

    def stored(self, name: str) -> dict[str, float]:
        """Return the recorded entries of a list, and the time at which each finished."""
        query = sa.select(listed_entries.c.entry, listed_entries.c.completed).where(
            listed_entries.c.list == name
        )
        with self._database.engine.connect() as connection:
            return {row.entry: row.completed for row in connection.execute(query)}

    def forget(self, name: str, until: float) -> None:
        """Delete the entries that finished until a time: the list is read only from there on."""
        with self._database.engine.begin() as connection:
            connection.execute(
                sa.delete(listed_entries).where(
                    listed_entries.c.list == name, listed_entries.c.completed <= until
                )
            )

    def record_reading(self, names: Iterable[str], error: str | None = None) -> None:
        """Record that lists were read to their end, or the error that prevented it."""
        values = {"error": error} if error else {"error": None, "succeeded": time.time()}
        with self._database.engine.begin() as connection:
            for name in names:
                connection.execute(
                    self._database.insert(list_readings)
                    .values(list=name, **values)
                    .on_conflict_do_update(index_elements=["list"], set_=values)
                )

    def readings(self) -> list[Reading]:
        """Return, for each list, when it was last read to its end and the error since."""
        with self._database.engine.connect() as connection:
            rows = connection.execute(sa.select(list_readings).order_by(list_readings.c.list)).all()
        return [Reading(row.list, row.succeeded, row.error) for row in rows]
