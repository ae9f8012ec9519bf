"""Keep the entries whose source gave no answer, outside the queue, until their next retry.

They wait in a table and not as DBOS's delayed workflows: docs/architecture.md says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from fedimg.process.backoff import Backoff
from fedimg.store.database import Database
from fedimg.store.tables import deferred_entries
from fedimg.untrusted.quoting import QuotedError

#: The first pause, in seconds; each is twice as long as the last, up to DeferReason.longest.
FIRST_PAUSE = 60.0
#: An entry that the hub calls unfinished for so many seconds is dropped: the announcement may be
#: forged. When the entry finishes after all, catch-up finds it.
UNFINISHED_SECONDS = 600.0


class DeferReason(StrEnum):
    """The reason for which an entry waits."""

    #: The hub or location did not answer.
    SILENT = "silent"
    #: The hub says that the task or build is not finished.
    UNFINISHED = "unfinished"
    #: The hub answers, but fails to describe this task or build.
    STUMBLES = "stumbles"

    @property
    def longest(self) -> float:
        """The longest pause between two retries, in seconds."""
        return 4 * 3600.0 if self is DeferReason.STUMBLES else 600.0


def source_name(entry: str) -> str:
    """Return a name, for messages, of the source that has to answer about an entry."""
    return "its location" if entry.startswith("compose:") else "Koji"


class Defer(QuotedError):
    """An entry has to be looked up again later; the text says why, `why` is its category."""

    def __init__(self, why: DeferReason, reason: str) -> None:
        super().__init__(reason)
        self.why = why


@dataclass(frozen=True)
class DeferredEntry:
    """An entry that waits for its next lookup.

    `asked` is the time of the last lookup, by the worker's clock, in seconds since the epoch;
    `pause` is the wait from then on, and `waited` the sum of earlier waits, both in seconds.
    """

    entry: str
    why: DeferReason
    reason: str
    asked: float
    pause: float
    waited: float

    @property
    def hopeless(self) -> bool:
        """True if the entry is to be dropped, as it has been unfinished for too long."""
        return self.why is DeferReason.UNFINISHED and self.waited >= UNFINISHED_SECONDS

    def due(self, now: float) -> bool:
        """Return whether the pause is over; setting the clock back ends the pause too."""
        return not self.asked <= now < self.asked + self.pause


class DeferredEntries:
    """The entries that wait for their next lookup, in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def postpone(self, entry: str, why: DeferReason, reason: str) -> DeferredEntry:
        """Let an entry wait, twice as long each time in a row that the reason is the same."""
        before = next((row for row in self.all() if row.entry == entry), None)
        now = time.time()
        if before is not None and before.why is why:
            pause = Backoff(FIRST_PAUSE, why.longest).after(before.pause)
            row = DeferredEntry(entry, why, reason, now, pause, before.waited + before.pause)
        else:
            row = DeferredEntry(entry, why, reason, now, FIRST_PAUSE, 0.0)
        values = {name: value for name, value in vars(row).items() if name != "entry"}
        with self._database.engine.begin() as connection:
            connection.execute(
                self._database.insert(deferred_entries)
                .values(entry=entry, **values)
                .on_conflict_do_update(index_elements=["entry"], set_=values)
            )
        return row

    def settle(self, entry: str) -> None:
        """Delete an entry, as its source has answered."""
        with self._database.engine.begin() as connection:
            connection.execute(sa.delete(deferred_entries).where(deferred_entries.c.entry == entry))

    def all(self) -> list[DeferredEntry]:
        """Return every entry that waits; the one that has waited longest comes first."""
        with self._database.engine.connect() as connection:
            rows = connection.execute(
                sa.select(deferred_entries).order_by(
                    sa.desc(deferred_entries.c.waited), deferred_entries.c.entry
                )
            ).mappings()
            return [DeferredEntry(**{**row, "why": DeferReason(row["why"])}) for row in rows]

    def wake(self, kinds: Iterable[str]) -> None:
        """End the pauses of entries whose source did not answer, as it answers again.

        `kinds` are the kinds of entries that the source knows: `task`, `build` or `compose`.
        """
        of_source = sa.or_(*(deferred_entries.c.entry.startswith(f"{kind}:") for kind in kinds))
        with self._database.engine.begin() as connection:
            connection.execute(
                sa.update(deferred_entries)
                .where(deferred_entries.c.why == DeferReason.SILENT, of_source)
                .values(asked=0.0)
            )

    def requeue_due(self, enqueue: Callable[[str], object]) -> None:
        """Call `enqueue` with every entry whose pause is over, and begin its next pause."""
        now = time.time()
        for row in self.all():
            if row.due(now):
                enqueue(row.entry)
                with self._database.engine.begin() as connection:
                    connection.execute(
                        sa.update(deferred_entries)
                        .where(deferred_entries.c.entry == row.entry)
                        .values(asked=now)
                    )
