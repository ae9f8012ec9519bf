"""Keep the hold of the site, in the database: while there is one, no worker publishes anything.

Entries are still taken in and jobs are still queued. A queued job does not start; a running job
goes on until it would make something public, and waits there. Holds that were released stay in the
table, as the record of who held and released the site, and when.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from fedimg.exceptions import Cancelled
from fedimg.store.database import Database
from fedimg.store.tables import holds
from fedimg.untrusted.quoting import one_line

#: How long a row is cached for the jobs that wait, in seconds: each of their regions waits.
_CACHE_SECONDS = 1.0
#: Polling interval for a request to stop a waiting job, in seconds.
_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Hold:
    """A hold: its beginning (epoch seconds), who began it, and why; `reason` may be empty."""

    since: float
    by: str
    reason: str

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC)
        why = f": {self.reason}" if self.reason else ""
        return f"publishing has been held since {since:%Y-%m-%dT%H:%M:%SZ} by {self.by}{why}"


class Holds:
    """The site's hold, for commands and for all jobs of all workers.

    Args:
        database: the site's.
        stopping: ends every wait, because the worker stops.
    """

    def __init__(self, database: Database, stopping: threading.Event | None = None) -> None:
        self._database = database
        self._stopping = stopping or threading.Event()
        self._lock = threading.Lock()
        self._read_at = -_CACHE_SECONDS
        self._cached: Hold | None = None

    def begin(self, by: str, reason: str) -> tuple[Hold, bool]:
        """Hold the site; return the hold and whether it is new.

        A hold that exists already stays as it is.
        """
        with self._database.engine.begin() as connection:
            self._database.lock(connection, "holds")
            if hold := _current(connection):
                return hold, False
            hold = Hold(time.time(), by, one_line(reason))
            connection.execute(sa.insert(holds).values(vars(hold)))
        return hold, True

    def release(self, by: str) -> Hold | None:
        """End the hold and return it, or None if the site is not held."""
        with self._database.engine.begin() as connection:
            self._database.lock(connection, "holds")
            hold = _current(connection)
            connection.execute(
                sa.update(holds)
                .where(holds.c.released.is_(None))
                .values(released=time.time(), released_by=by)
            )
        return hold

    def current(self) -> Hold | None:
        """Return the hold, or None if the site is not held."""
        with self._database.engine.connect() as connection:
            return _current(connection)

    def wait_for_release(self, stop: threading.Event) -> None:
        """Wait until the hold has ended. Raises Cancelled if `stop` is set or the worker stops."""
        while self._held():
            if self._stopping.is_set() or stop.wait(_POLL_SECONDS):
                raise Cancelled

    def _held(self) -> bool:
        with self._lock:
            if time.monotonic() - self._read_at >= _CACHE_SECONDS:
                self._cached = self.current()
                self._read_at = time.monotonic()
            return self._cached is not None


def _current(connection: sa.Connection) -> Hold | None:
    row = connection.execute(
        sa.select(holds.c.since, holds.c.by, holds.c.reason).where(holds.c.released.is_(None))
    ).first()
    return None if row is None else Hold(row.since, row.by, row.reason)
