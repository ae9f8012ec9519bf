"""Open the database of queue and outbox: one SQLite file, or a PostgreSQL that workers share.

fedimg.store.store, and the modules that it imports, read and write the rows.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import sqlite

from fedimg.process import permissions
from fedimg.store import read_only_file, schema, tables
from fedimg.store.group_commit import GroupCommit
from fedimg.store.url import postgresql_url
from fedimg.untrusted.quoting import QuotedError

if TYPE_CHECKING:
    # It loads libpq.
    import psycopg

T = TypeVar("T")

#: SQLSTATEs, or their beginnings, of errors that concurrent transactions cause one another: class
#: 40 is transaction rollback, 55P03 a lock that was not available, 57014 a cancelled statement.
_CONFLICTS = ("40", "55P03", "57014")
#: The timeout for connecting to a server, in seconds.
_CONNECT_SECONDS = 10
#: The timeout for a connection whose other end acknowledges nothing, in milliseconds.
_UNACKNOWLEDGED_MS = 15000
#: A connection that was used so recently, in seconds, is not tested before its next use.
_UNTESTED_SECONDS = 1.0

#: The server ends a transaction that is idle for so many seconds: `worker.lease_seconds`' default.
_IDLE_SECONDS = 15.0
#: The server ends a statement of a read-only database after so many seconds.
_READ_SECONDS = 30
#: How many missing tables, columns and indexes an error names; a new database lacks all.
_NAMED = 5


class StoreError(QuotedError):
    """The database cannot be used; the text says where the database is and what to do."""


class Unreachable(StoreError):
    """A PostgreSQL does not answer, or does not accept connections yet."""


class Database:
    """One SQLite file below the state directory, or the PostgreSQL of a `url`.

    A missing file is created with its tables; a file of an older version is upgraded. In a
    PostgreSQL, where a worker's role may not be allowed to create tables, both happen only with
    `migrate`. The server ends a transaction that is idle for `idle_seconds`. With `read_only`
    nothing is created, upgraded or written, and each connection refuses to write.
    Raises StoreError when the database cannot be used, Unreachable when a PostgreSQL does not
    answer.
    """

    def __init__(
        self,
        directory: Path,
        url: str = "",
        *,
        migrate: bool = False,
        read_only: bool = False,
        idle_seconds: float = _IDLE_SECONDS,
    ) -> None:
        self.directory = directory
        self.path = directory / permissions.DATABASE
        self.shared = bool(url)
        if url:
            self.engine = _postgresql(url, idle_seconds, read_only=read_only)
        else:
            self.engine = read_only_file.engine(self.path) if read_only else _sqlite(self.path)
        self._group = GroupCommit(self.engine)
        self._groups_lock = threading.Lock()
        self._groups: dict[str, GroupCommit] = {}
        #: The database's URL without its password, or its path, for messages.
        self.address = _shown(self.engine.url) if url else str(self.path)
        if read_only:
            self._find_tables()
        elif not self.shared:
            self._open_file()
        elif migrate:
            self._migrate()
        else:
            self._find_tables()

    def close(self) -> None:
        """Close the connections that are not in use."""
        self.engine.dispose()

    def insert(self, table: sa.Table) -> Any:
        """Return an INSERT that takes an ON CONFLICT clause, in the database's own dialect."""
        if not self.shared:
            return sqlite.insert(table)
        # Imported here, as a look at a file does without it, and it loads asyncio.
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)

    def write(self, *statements: sa.Insert | sa.Update | sa.Delete) -> None:
        """Run statements in one transaction; one commit may hold several threads'."""

        def execute(connection: sa.Connection) -> None:
            for statement in statements:
                connection.execute(statement)

        self._group.run(execute)

    def together(self, action: Callable[[sa.Connection], T], lock: str) -> T:
        """Run an action in a transaction that holds a lock; it may hold other threads' as well.

        Those are actions with the same lock. Return the action's result, or raise its error. It may
        be called twice, the first time without an effect.
        """
        with self._groups_lock:
            if (group := self._groups.get(lock)) is None:
                begin = partial(self.lock, lock=lock)
                group = self._groups[lock] = GroupCommit(self.engine, begin)
        return group.run(action)

    def lock(self, connection: sa.Connection, lock: str) -> None:
        """Hold the lock of this name to the end of the transaction; wait for it when it is held.

        Call this first in the transaction: SQLite has one lock, which all writers take.
        """
        if self.shared:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock_key(lock))))
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def on_failure(self, callback: Callable[[BaseException], object]) -> None:
        """Call `callback` with the error, in any thread, when the database fails.

        Failures are, for example, a full disk, a file that is gone or that another process locks
        for too long, and a stopped server. A row that exists already is no failure, nor is a
        conflict between two transactions.
        """

        @event.listens_for(self.engine, "handle_error")
        def report(context: sa.ExceptionContext) -> None:
            if _fatal(context.original_exception):
                callback(context.original_exception)

    def _migrate(self) -> None:
        try:
            # DBOS is slow to import, and `fedimg status` does without.
            from dbos import DBOS

            new = not sa.inspect(self.engine).has_table(tables.jobs.name)
            DBOS.migrate(self.queue_url)
            schema.grow(self._begin_migration)
            if new:
                self.write(self.insert(tables.creation).values(at=time.time()))
        except (schema.CannotGrow, sa.exc.DatabaseError) as error:
            raise self._unusable(error) from error

    @contextmanager
    def _begin_migration(self) -> Iterator[sa.Connection]:
        """Begin a transaction that upgrades tables, one process at a time.

        Hub and worker may start together: the second one finds the tables that the first created.
        """
        with self.engine.begin() as connection:
            self.lock(connection, "tables")
            yield connection

    @property
    def queue_url(self) -> str:
        """Return the database's URL for the queue's library; it holds the password."""
        return self.engine.url.render_as_string(hide_password=False)

    def _open_file(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            permissions.close_to_others(self.directory)
            # SQLite creates its -wal and -shm files with the mode of this file.
            permissions.create(self.path)
            # The consumer may start before any worker, and needs the queue's own tables as well.
            if not sa.inspect(self.engine).has_table("dbos_migrations") or self._lacks():
                self._migrate()
        except (OSError, schema.CannotGrow, sa.exc.DatabaseError) as error:
            raise self._unusable(error) from error

    def _find_tables(self) -> None:
        try:
            lacks = self._lacks()
        except (schema.CannotGrow, sa.exc.DatabaseError) as error:
            raise self._unusable(error) from error
        if lacks:
            self.close()
            advice = (
                "run 'fedimg store migrate' as a role that may create tables there"
                if self.shared
                else "start the worker of this version, which adds it"
            )
            raise StoreError(
                f"the database {self.address} is not prepared for this version of fedimg: it lacks "
                f"{_first(lacks)}; {advice}"
            )

    def _lacks(self) -> list[str]:
        with self.engine.connect() as connection:
            return [lack.name for lack in schema.lacks(connection)]

    def _unusable(self, error: Exception) -> StoreError:
        if isinstance(error, schema.CannotGrow):
            return StoreError(
                f"cannot upgrade the database {self.address}, which an older fedimg created: its "
                f"rows have no value for the column {error}; install that older version again"
            )
        if isinstance(error, permissions.TooOpen):
            return StoreError(f"cannot use the database {self.path}: {error}")
        reason = str(getattr(error, "orig", None) or error).strip()
        if not self.shared:
            return StoreError(
                f"cannot use the database {self.path}: {reason}; "
                "check state_directory, its owner and the free space there"
            )
        error_class = Unreachable if _connection_lost(error) else StoreError
        return error_class(
            f"cannot use the database {self.address}: {reason}; check `database` in fedimg.toml, "
            "whether PostgreSQL runs there, and its pg_hba.conf"
        )


def _connection_lost(error: Exception) -> bool:
    """Return whether the server did not answer, or ended the connection: it may answer again.

    A server also ends a transaction that is idle for too long, as of a process that was frozen.
    """
    if isinstance(error, sa.exc.OperationalError):
        return True
    return isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def lock_key(name: str) -> int:
    """Return the number of the PostgreSQL advisory lock of this name: 64 bits of a hash."""
    digest = hashlib.sha256(f"fedimg:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _shown(url: sa.URL) -> str:
    return url.set(drivername="postgresql").render_as_string()


def _fatal(error: BaseException) -> bool:
    # SQLite reports a damaged file as DatabaseError itself, conflicts as its subclasses.
    if type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError):
        return True
    if isinstance(error, sqlite3.Error):
        return False
    import psycopg

    state = str(getattr(error, "sqlstate", None) or "")
    return isinstance(error, psycopg.OperationalError) and not state.startswith(_CONFLICTS)


def _postgresql(text: str, idle_seconds: float, *, read_only: bool) -> sa.Engine:
    engine = sa.create_engine(
        postgresql_url(text),
        # Each region of each job writes in a thread of its own, and a server limits the number of
        # its connections.
        pool_size=10,
        max_overflow=5,
        pool_timeout=300,
        # The one that was used last, which needs no test.
        pool_use_lifo=True,
        json_serializer=_dumps,
        connect_args=connecting("fedimg"),
    )
    _test_after_a_rest(engine)

    @event.listens_for(engine, "connect")
    def limit(connection: psycopg.Connection[Any], _record: object) -> None:
        # A process that is frozen or cut off would keep the locks of its transaction, and no other
        # worker could acquire a semaphore or begin a job.
        milliseconds = f"{idle_seconds * 1000:.0f}"
        connection.execute(
            "SELECT set_config('idle_in_transaction_session_timeout', %s, false)", [milliseconds]
        )
        if read_only:
            connection.execute("SET default_transaction_read_only = on")
            connection.execute(f"SET statement_timeout = '{_READ_SECONDS}s'")
        connection.commit()

    return engine


def _test_after_a_rest(engine: sa.Engine) -> None:
    """Test a connection that was not used for a while before its use, and replace a broken one.

    SQLAlchemy's `pool_pre_ping` tests before each use, by one more transaction of the server.
    """

    @event.listens_for(engine, "checkin")
    def note(_connection: object, record: sa.pool.ConnectionPoolEntry) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def test(connection: Any, record: sa.pool.ConnectionPoolEntry, _proxy: object) -> None:
        now = time.monotonic()
        if now - record.info.get("used", now) < _UNTESTED_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            # The pool replaces this connection, and all others that it has.
            raise sa.exc.InvalidatePoolError from error


def connecting(name: str) -> dict[str, Any]:
    """Return libpq's connection parameters for an application of this name.

    Their timeouts detect a server, or a network path to it, that is gone.
    """
    return {
        "connect_timeout": _CONNECT_SECONDS,
        "application_name": name,
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        "tcp_user_timeout": _UNACKNOWLEDGED_MS,
    }


def _sqlite(path: Path) -> sa.Engine:
    # A path may hold characters that mean something in a URL's text.
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(
        url,
        # Each region of each job writes in a thread of its own. More connections would only wait
        # at SQLite's lock, in no order; threads get the pool's connections in the order of asking.
        pool_size=10,
        max_overflow=0,
        pool_timeout=300,
        json_serializer=_dumps,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=30000")
        connection.execute("PRAGMA foreign_keys=ON")
        if connection.execute("SELECT unixepoch('subsec')").fetchone()[0] is None:
            # SQLite before 3.42 does not know 'subsec', which DBOS uses.
            connection.create_function(
                "unixepoch", -1, lambda *form: time.time() if form else int(time.time())
            )

    return engine


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
