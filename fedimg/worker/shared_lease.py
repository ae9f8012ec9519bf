"""Grant the lease of one of several workers on a PostgreSQL, by an advisory lock.

`fedimg.worker.failover` takes over the jobs of a worker that has lost its lease.
"""

from __future__ import annotations

import logging
import math
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

import psycopg
import sqlalchemy as sa

from fedimg.store.database import StoreError, connecting, lock_key
from fedimg.untrusted.failures import reason

#: How many statements are sent in the seconds of the lease.
_PINGS = 5
#: The longest interval, in seconds, at which a worker looks whether the server has ended its
#: connection, or tries to become the leader.
_LONGEST_PAUSE = 1.0
_CHECK_SECONDS = 0.2
#: The largest number of workers on one machine.
_NAMES = 100
_LEADER = lock_key("leader")
#: The number of an advisory lock in pg_locks, and the rows of those of this database.
_KEY = "(classid::bigint << 32) | objid::bigint"
_HELD = (
    "FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)

_log = logging.getLogger(__name__)


class SharedLease:
    """The lease of a worker named after its host; further workers there are NAME-2, NAME-3.

    The lease is an advisory lock of PostgreSQL on a connection of its own. The server releases the
    lock with the connection: at once when this process dies, and after `seconds` without a
    statement when the process is frozen or the network is down. The worker, too, considers the
    lease lost `seconds` after its last answered statement, by its own clock, and calls `lost`,
    which has to end the process.

    Raises StoreError if no lock can be taken.
    """

    def __init__(self, url: sa.URL, seconds: float, lost: Callable[[str], NoReturn]) -> None:
        self.leads = threading.Event()
        self._seconds = seconds
        self._lost = lost
        self._until = _now() + seconds
        self._stop = threading.Event()
        try:
            self._connection = connect(url, "fedimg worker")
            self._connection.execute(
                "SELECT set_config('idle_session_timeout', %s, false)", [f"{seconds * 1000:.0f}"]
            )
            self.name = self._first_free(socket.gethostname())
        except psycopg.Error as error:
            raise StoreError(
                f"cannot take a worker's lock in the database {url.render_as_string()}: "
                f"{reason(error)}; fedimg needs PostgreSQL 14 or newer, without a pooler that "
                "shares connections"
            ) from error
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._keep, "lease"), (self._watch, "lease watch"))
        ]
        for thread in self._threads:
            thread.start()

    def end_if_lost(self) -> None:
        """End the process if the server may have released the lock."""
        if _now() >= self._until and not self._stop.is_set():
            self._lost(f"PostgreSQL did not answer for {self._seconds:g} s")

    def release(self) -> None:
        """Release the lock, so that another worker can take over at once."""
        self._stop.set()
        self._threads[0].join(_LONGEST_PAUSE + 1)
        self._connection.close()

    def _first_free(self, host: str) -> str:
        for number in range(1, _NAMES):
            name = host if number == 1 else f"{host}-{number}"
            if try_lock(self._connection, worker_key(name)):
                return name
        raise StoreError(f"cannot start a worker: {_NAMES - 1} workers already run on {host}")

    def _keep(self) -> None:
        sent = -math.inf
        while not self._stop.wait(min(self._seconds / _PINGS, _LONGEST_PAUSE)):
            if self.leads.is_set() and _now() < sent + self._seconds / _PINGS and self._is_quiet():
                continue
            sent = _now()
            try:
                if self.leads.is_set():
                    self._connection.execute("SELECT 1")
                elif try_lock(self._connection, _LEADER):
                    _log.info(
                        'worker "%s" is the leader: it sends announcements and catches up',
                        self.name,
                    )
                    self.leads.set()
            except psycopg.Error as error:
                self._lost(reason(error))
            self._until = sent + self._seconds

    def _is_quiet(self) -> bool:
        """Return whether the server has sent nothing: it says when it ends the connection."""
        return not select.select([self._connection], [], [], 0)[0]

    def _watch(self) -> None:
        while not self._stop.wait(_CHECK_SECONDS):
            self.end_if_lost()


def connect(url: sa.URL, name: str) -> psycopg.Connection[tuple[object, ...]]:
    """Open a connection outside the pool, in autocommit mode. Raises psycopg.Error."""
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(address, autocommit=True, **connecting(name))


def worker_key(name: str) -> int:
    """Return the number of a worker's advisory lock."""
    return lock_key(f"worker:{name}")


def try_lock(connection: psycopg.Connection[tuple[object, ...]], key: int) -> bool:
    """Take an advisory lock until the connection ends; return False if another has it."""
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchone()
    return row is not None and bool(row[0])


def alive(engine: sa.Engine, names: Iterable[str]) -> set[str]:
    """Return the names of those workers that hold their locks on a PostgreSQL."""
    with engine.connect() as connection:
        return alive_in(connection, names)


def alive_in(connection: sa.Connection, names: Iterable[str]) -> set[str]:
    """Return what `alive` does, read in a transaction of the caller."""
    keys = set(connection.execute(sa.text(f"SELECT {_KEY} {_HELD}")).scalars())
    return {name for name in names if worker_key(name) in keys}


def held_locks() -> sa.ColumnElement[str]:
    """Return a column that tells which advisory locks of the database are held."""
    return sa.literal_column(f"(SELECT string_agg(({_KEY})::text, ' ' ORDER BY {_KEY}) {_HELD})")


def _now() -> float:
    # This clock also counts while the process or the whole machine is suspended.
    return time.clock_gettime(time.CLOCK_BOOTTIME)
