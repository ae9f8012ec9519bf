"""Tells, by one query for all who ask, which tables hold rows that wait for a time or an operator.

An idle worker would otherwise query each of these tables every two seconds.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import sqlalchemy as sa

from fedimg.progress import AWAY
from fedimg.store.database import Database
from fedimg.store.tables import deferred_entries, holds, outages, regions, retries


@dataclass(frozen=True)
class Pending:
    """Flags: there are deferred entries, retries that may begin, outages, a hold."""

    entries: bool
    retries: bool
    outages: bool
    hold: bool


class PendingRows:
    """The answer of at most `age` seconds ago, for the threads of one worker."""

    def __init__(self, database: Database, age: float) -> None:
        self._database = database
        self._age = age
        self._lock = threading.Lock()
        self._read_at = -age
        self._answer = Pending(entries=False, retries=False, outages=False, hold=False)

    def current(self) -> Pending:
        """Return the answer, read anew if it is older than `age`."""
        with self._lock:
            if time.monotonic() - self._read_at >= self._age:
                self._answer = self._read()
                self._read_at = time.monotonic()
            return self._answer

    def _read(self) -> Pending:
        # A run that waits for a region begins when that is back, whatever its time.
        of_away_region = sa.exists().where(regions.c.job == retries.c.job, regions.c.step == AWAY)
        may_begin = ~retries.c.begun & ((retries.c.due <= time.time()) | of_away_region)
        query = sa.select(
            sa.exists(sa.select(deferred_entries.c.entry)).label("entries"),
            sa.exists(sa.select(retries.c.job).where(may_begin)).label("retries"),
            sa.exists(sa.select(outages.c.region).where(outages.c.back.is_(None))).label("outages"),
            sa.exists(sa.select(holds.c.since).where(holds.c.released.is_(None))).label("hold"),
        )
        with self._database.engine.connect() as connection:
            row = connection.execute(query).one()
        return Pending(**{name: bool(value) for name, value in row._mapping.items()})
