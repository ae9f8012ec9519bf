"""The database behind queue and outbox: one SQLite file, or a PostgreSQL that workers share.

What is read and written there is in fedimg.store.store, and in the modules that it names.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite

from fedimg.process import permissions
from fedimg.store import schema, tables
from fedimg.store.group_commit import GroupCommit
from fedimg.store.url import postgresql_url
from fedimg.untrusted.quoting import QuotedError

if TYPE_CHECKING:
    # It loads libpq.
    import psycopg

#: Errors that PostgreSQL gives to one of two who were in each other's way: 40 is the class of
#: transactions rolled back, 55P03 a lock that was not waited for, 57014 a statement cut short.
_PASSING = ("40", "55P03", "57014")
#: Until a server that does not answer is given up, in seconds.
_CONNECT_SECONDS = 10
#: Until a connection whose other end acknowledges nothing is given up, in milliseconds.
_UNACKNOWLEDGED = 15000

#: Until the server ends a transaction in which nothing happens: `worker.lease_seconds`' default.
_STILL_SECONDS = 15.0
#: Of what is missing, so many are named: of a new database it is everything.
_NAMED = 5


class StoreError(QuotedError):
    """The database cannot be used; the text says where it is and what to do."""


class Unreachable(StoreError):
    """A PostgreSQL does not answer, or not yet."""


class Database:
    """One SQLite file below the state directory, or the PostgreSQL of a `url`.

    The file is made when it is missing, with its tables, and gets what an older version's lacks. In
    a PostgreSQL, where a worker may not be allowed to, that is done only with `make`. A transaction
    that stands still there for `still_seconds` is broken off.
    Raises StoreError when it cannot be used, Unreachable when a PostgreSQL does not answer.
    """

    def __init__(
        self,
        directory: Path,
        url: str = "",
        *,
        make: bool = False,
        still_seconds: float = _STILL_SECONDS,
    ) -> None:
        self.directory = directory
        self.path = directory / permissions.DATABASE
        self.shared = bool(url)
        self.engine = _postgresql(url, still_seconds) if url else _sqlite(self.path)
        self._group = GroupCommit(self.engine)
        #: How to name it to a person: without its password.
        self.place = _shown(self.engine.url) if url else str(self.path)
        if not self.shared:
            self._make_file()
        elif make:
            self._prepare()
        else:
            self._find_tables()

    def close(self) -> None:
        """Let go of it."""
        self.engine.dispose()

    def insert(self, table: sa.Table) -> Any:
        """An insert that may say what to do about a row that is there already."""
        return (postgresql if self.shared else sqlite).insert(table)

    def write(self, statement: sa.Insert | sa.Update | sa.Delete) -> None:
        """Run a statement that stands for itself, committed with those of other threads."""
        self._group.write(statement)

    def serialise(self, connection: sa.Connection, what: str) -> None:
        """Let one transaction at a time go on from here, of those about the same thing.

        It comes first in its transaction: SQLite has one lock, for all that is written.
        """
        if self.shared:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock_key(what))))
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def on_failure(self, tell: Callable[[BaseException], object]) -> None:
        """Have `tell` called with the reason, in any thread, when the database fails.

        The disk may be full, say, the file gone, or held by another process for too long; the
        server may be stopped. That a row is there already is no failure, nor is a transaction
        that was in another's way.
        """

        @event.listens_for(self.engine, "handle_error")
        def look(context: sa.ExceptionContext) -> None:
            if not context.is_pre_ping and _fatal(context.original_exception):
                tell(context.original_exception)

    def _prepare(self) -> None:
        try:
            # Slow to import, and needed this once: `fedimg status` should not wait for it.
            from dbos import DBOS

            new = not sa.inspect(self.engine).has_table(tables.jobs.name)
            DBOS.migrate(self.queue_url)
            schema.grow(self._begin_making)
            if new:
                self.write(self.insert(tables.made).values(at=time.time()))
        except (schema.CannotGrow, sa.exc.DatabaseError) as error:
            raise self._unusable(error) from error

    @contextmanager
    def _begin_making(self) -> Iterator[sa.Connection]:
        """Bus and worker may both be the first: the second finds the tables made."""
        with self.engine.begin() as connection:
            self.serialise(connection, "tables")
            yield connection

    @property
    def queue_url(self) -> str:
        """The address for the queue's library, password and all: not to be shown."""
        return self.engine.url.render_as_string(hide_password=False)

    def _make_file(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            permissions.close_to_others(self.directory)
            # SQLite gives the files that it makes beside this one the same mode.
            permissions.create(self.path)
            # The queue's own tables come first: a consumer may well start before any worker.
            if not sa.inspect(self.engine).has_table("dbos_migrations") or self._lacks():
                self._prepare()
        except (OSError, schema.CannotGrow, sa.exc.DatabaseError) as error:
            raise self._unusable(error) from error

    def _find_tables(self) -> None:
        try:
            lacks = self._lacks()
        except (schema.CannotGrow, sa.exc.DatabaseError) as error:
            raise self._unusable(error) from error
        if lacks:
            self.close()
            raise StoreError(
                f"the database {self.place} is not prepared for this version of fedimg: it lacks "
                f"{_some(lacks)}; run 'fedimg store migrate' as a role that may create tables there"
            )

    def _lacks(self) -> list[str]:
        with self.engine.connect() as connection:
            return [lack.name for lack in schema.lacks(connection)]

    def _unusable(self, error: Exception) -> StoreError:
        if isinstance(error, schema.CannotGrow):
            return StoreError(
                f"cannot upgrade the database {self.place}, which an older fedimg created: its "
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
        kind = Unreachable if isinstance(error, sa.exc.OperationalError) else StoreError
        return kind(
            f"cannot use the database {self.place}: {reason}; check `database` in fedimg.toml, "
            "whether PostgreSQL runs there, and its pg_hba.conf"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def lock_key(what: str) -> int:
    """The number of PostgreSQL's advisory lock for something; fedimg's own, by its hash."""
    digest = hashlib.sha256(f"fedimg:{what}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _shown(url: sa.URL) -> str:
    return url.set(drivername="postgresql").render_as_string()


def _fatal(error: BaseException) -> bool:
    # What is no more than DatabaseError is damage to the file itself.
    if type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError):
        return True
    if isinstance(error, sqlite3.Error):
        return False
    import psycopg

    state = str(getattr(error, "sqlstate", None) or "")
    return isinstance(error, psycopg.OperationalError) and not state.startswith(_PASSING)


def _postgresql(text: str, still_seconds: float) -> sa.Engine:
    engine = sa.create_engine(
        postgresql_url(text),
        # Each region of each job writes in a thread of its own; a server counts its connections.
        pool_size=10,
        max_overflow=5,
        pool_timeout=300,
        pool_pre_ping=True,
        json_serializer=_dumps,
        connect_args=connecting("fedimg"),
    )

    @event.listens_for(engine, "connect")
    def limit(connection: psycopg.Connection[Any], _record: object) -> None:
        # Whoever is frozen or cut off keeps the locks of its transaction for as long as that lasts,
        # and nobody else would get a job's place, or a job.
        still = f"{still_seconds * 1000:.0f}"
        connection.execute(
            "SELECT set_config('idle_in_transaction_session_timeout', %s, false)", [still]
        )
        connection.commit()

    return engine


def connecting(name: str) -> dict[str, Any]:
    """How libpq is to connect: a server, or a way there, that is gone is to be noticed."""
    return {
        "connect_timeout": _CONNECT_SECONDS,
        "application_name": name,
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        "tcp_user_timeout": _UNACKNOWLEDGED,
    }


def _sqlite(path: Path) -> sa.Engine:
    # Not by text: a path may hold what means something in a URL.
    where = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(
        where,
        # Each region of each job writes in a thread of its own. Past a few connections they only
        # wait at SQLite's lock, where chance decides; here it is first come, first served.
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
            # SQLite before 3.42 has no sub-seconds; DBOS counts on them.
            connection.create_function(
                "unixepoch", -1, lambda *form: time.time() if form else int(time.time())
            )

    return engine


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
