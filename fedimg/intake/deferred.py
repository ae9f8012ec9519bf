"""Entries that nobody gave an answer about: each is asked for again later, out of the queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from fedimg.store.store import Store
from fedimg.store.tables import waiting
from fedimg.untrusted.quoting import QuotedError

#: The first pause, in seconds; each is twice as long as the last, up to Why's limit.
FIRST_PAUSE = 60.0
#: How long, in seconds, the hub may say that what was announced is not finished: a false
#: announcement is not waited for, and what finishes after all is found among what was missed.
UNFINISHED_SECONDS = 600.0


class DeferReason(StrEnum):
    """What an entry waits for."""

    #: The hub did not answer at all.
    SILENT = "silent"
    #: The hub says that the task or build is not finished.
    UNFINISHED = "unfinished"
    #: The hub fails at this task or build, whatever is the matter with it.
    STUMBLES = "stumbles"

    @property
    def longest(self) -> float:
        """The longest pause, in seconds."""
        return 4 * 3600.0 if self is DeferReason.STUMBLES else 600.0


def whom(entry: str) -> str:
    """Who is asked about an entry, for people."""
    return "its location" if entry.startswith("compose:") else "Koji"


class Defer(QuotedError):
    """An entry has to be asked for again later."""

    def __init__(self, why: DeferReason, reason: str) -> None:
        super().__init__(reason)
        self.why = why


@dataclass(frozen=True)
class DeferredEntry:
    """An entry that waits; `asked` is when it was last asked for, by our clock, in seconds.

    `pause` and `waited`, in seconds, are how long it waits from then on, and has waited before.
    """

    entry: str
    why: DeferReason
    reason: str
    asked: float
    pause: float
    waited: float

    @property
    def hopeless(self) -> bool:
        """Whether it is not worth waiting for."""
        return self.why is DeferReason.UNFINISHED and self.waited >= UNFINISHED_SECONDS

    def due(self, now: float) -> bool:
        """Whether the pause is over; a clock that was set back ends it too."""
        return not self.asked <= now < self.asked + self.pause


class DeferredEntries:
    """The entries that wait, in the database."""

    def __init__(self, store: Store) -> None:
        self._engine = store.engine
        self._insert = store.insert

    def postpone(self, entry: str, why: DeferReason, reason: str) -> DeferredEntry:
        """Let an entry wait, longer each time that it does so for the same reason."""
        before = next((row for row in self.all() if row.entry == entry), None)
        now = time.time()
        if before is not None and before.why is why:
            pause = min(before.pause * 2, why.longest)
            row = DeferredEntry(entry, why, reason, now, pause, before.waited + before.pause)
        else:
            row = DeferredEntry(entry, why, reason, now, FIRST_PAUSE, 0.0)
        values = {name: value for name, value in vars(row).items() if name != "entry"}
        with self._engine.begin() as connection:
            connection.execute(
                self._insert(waiting)
                .values(entry=entry, **values)
                .on_conflict_do_update(index_elements=["entry"], set_=values)
            )
        return row

    def settle(self, entry: str) -> None:
        """There is an answer: the entry waits no more."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(waiting).where(waiting.c.entry == entry))

    def all(self) -> list[DeferredEntry]:
        """Every entry that waits, the one that has waited longest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                sa.select(waiting).order_by(sa.desc(waiting.c.waited), waiting.c.entry)
            ).mappings()
            return [DeferredEntry(**{**row, "why": DeferReason(row["why"])}) for row in rows]

    def wake(self, kinds: Iterable[str]) -> None:
        """End the pauses of entries of these kinds that nobody spoke of: somebody does again."""
        ours = sa.or_(*(waiting.c.entry.startswith(f"{kind}:") for kind in kinds))
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(waiting)
                .where(waiting.c.why == DeferReason.SILENT, ours)
                .values(asked=0.0)
            )

    def take_in(self, take_in: Callable[[str], object]) -> None:
        """Give every entry whose pause is over to `take_in`, once a pause."""
        now = time.time()
        for row in self.all():
            if row.due(now):
                take_in(row.entry)
                with self._engine.begin() as connection:
                    connection.execute(
                        sa.update(waiting).where(waiting.c.entry == row.entry).values(asked=now)
                    )
