"""The right to be one of several workers on a PostgreSQL, which ends when the worker does.

What becomes of the jobs of a worker that lost it is fedimg.worker.failover' to do.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

import psycopg
import sqlalchemy as sa

from fedimg.store.database import StoreError, connecting, lock_key

#: Pings within the time that a server waits for one, and the longest pause between two, in seconds.
_PINGS = 5
_LONGEST_PAUSE = 1.0
_GLANCE_SECONDS = 0.2
#: Workers of one machine, and more.
_NAMES = 100
_LEADER = lock_key("leader")

_log = logging.getLogger(__name__)


class SharedLease:
    """The right to work under the host's name, or NAME-2 and so on for further workers there.

    It is an advisory lock of PostgreSQL's, on a connection of its own. The server drops it with
    the connection: at once when this process dies, and after `seconds` without a word when it is
    frozen or the network is gone. So long after its last word that was answered this worker counts
    as lost, too, by its own clock: `lost` is called then, which has to end the process.

    Raises StoreError when there is no lock to be had.
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
                f"cannot hold a worker's lock in the database {url.render_as_string()}: "
                f"{str(error).strip()}; it takes PostgreSQL 14 or newer, and no pooler between"
            ) from error
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._keep, "lease"), (self._watch, "lease, watched"))
        ]
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """End the process when the server may have given the lock to another."""
        if _now() >= self._until and not self._stop.is_set():
            self._lost(f"PostgreSQL did not answer for {self._seconds:g} s")

    def release(self) -> None:
        """Let another take over at once what is left under this name."""
        self._stop.set()
        self._threads[0].join(_LONGEST_PAUSE + 1)
        self._connection.close()

    def _first_free(self, host: str) -> str:
        for number in range(1, _NAMES):
            name = host if number == 1 else f"{host}-{number}"
            if try_lock(self._connection, worker_key(name)):
                return name
        raise StoreError(f"{_NAMES} workers run on {host} already")

    def _keep(self) -> None:
        pause = min(self._seconds / _PINGS, _LONGEST_PAUSE)
        while not self._stop.wait(pause):
            said = _now()
            try:
                if not self.leads.is_set() and try_lock(self._connection, _LEADER):
                    _log.info("worker %s announces and looks for what was missed", self.name)
                    self.leads.set()
                self._connection.execute("SELECT 1")
            except psycopg.Error as error:
                self._lost(str(error).strip())
            self._until = said + self._seconds

    def _watch(self) -> None:
        while not self._stop.wait(_GLANCE_SECONDS):
            self.check()


def connect(url: sa.URL, name: str) -> psycopg.Connection[tuple[object, ...]]:
    """A connection apart from the pool's, without transactions. Raises psycopg.Error."""
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(address, autocommit=True, **connecting(name))


def worker_key(name: str) -> int:
    """The number of a worker's lock."""
    return lock_key(f"worker:{name}")


def try_lock(connection: psycopg.Connection[tuple[object, ...]], key: int) -> bool:
    """Take an advisory lock for as long as the connection lasts; False when another has it."""
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchone()
    return row is not None and bool(row[0])


def alive(engine: sa.Engine, names: Iterable[str]) -> set[str]:
    """Which of these workers hold their locks, on a PostgreSQL."""
    held = sa.text(
        "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' "
        "AND objsubid = 1 AND granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with engine.connect() as connection:
        keys = set(connection.execute(held).scalars())
    return {name for name in names if worker_key(name) in keys}


def _now() -> float:
    # It goes on while the process, or the whole machine, stands still.
    return time.clock_gettime(time.CLOCK_BOOTTIME)
