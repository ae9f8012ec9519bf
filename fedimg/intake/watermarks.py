"""How far the hub's lists of what finished were read, as the database remembers it.

Times in it are the hub's, in seconds since the epoch, but for `Look`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from fedimg.store.store import Store
from fedimg.store.tables import caught, lists, looks

if TYPE_CHECKING:
    # Which loads an HTTP client: `fedimg status` does without.
    from fedimg.sources.koji_listing import FinishedEntry


@dataclass(frozen=True)
class Watermark:
    """Everything in a list that finished from `begin` to `until`, as far as seen, is stored."""

    begin: float
    until: float


@dataclass(frozen=True)
class Look:
    """When a list was last read to its end, by our clock, and what was wrong since, if anything."""

    name: str
    succeeded: float | None
    error: str | None


class Watermarks:
    """The marks of all lists, and which entries close to them were stored."""

    def __init__(self, store: Store) -> None:
        self._engine = store.engine
        self._insert = store.insert

    def get(self, name: str) -> Watermark | None:
        """The mark of a list; None before the first."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(lists).where(lists.c.list == name)).first()
        return None if row is None else Watermark(row.begin, row.until)

    def set(self, name: str, watermark: Watermark, stored: Iterable[FinishedEntry] = ()) -> None:
        """Move a list's mark, and remember what was stored on the way: both or neither."""
        values = {"begin": watermark.begin, "until": watermark.until}
        with self._engine.begin() as connection:
            for one in stored:
                connection.execute(
                    self._insert(caught)
                    .values(entry=one.entry, list=name, completed=one.completed)
                    .on_conflict_do_update(
                        index_elements=["entry"], set_={"completed": one.completed}
                    )
                )
            connection.execute(
                self._insert(lists)
                .values(list=name, **values)
                .on_conflict_do_update(index_elements=["list"], set_=values)
            )

    def stored(self, name: str) -> dict[str, float]:
        """The remembered entries of a list, and when each had finished."""
        query = sa.select(caught.c.entry, caught.c.completed).where(caught.c.list == name)
        with self._engine.connect() as connection:
            return {row.entry: row.completed for row in connection.execute(query)}

    def forget(self, name: str, until: float) -> None:
        """Forget the entries that finished by then: the list is never read from there again."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.delete(caught).where(caught.c.list == name, caught.c.completed <= until)
            )

    def looked(self, names: Iterable[str], error: str | None = None) -> None:
        """Note that lists were read to their end, or why they could not be."""
        values = {"error": error} if error else {"error": None, "succeeded": time.time()}
        with self._engine.begin() as connection:
            for name in names:
                connection.execute(
                    self._insert(looks)
                    .values(list=name, **values)
                    .on_conflict_do_update(index_elements=["list"], set_=values)
                )

    def looks(self) -> list[Look]:
        """How the last look at each list went."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(looks).order_by(looks.c.list)).all()
        return [Look(row.list, row.succeeded, row.error) for row in rows]
