"""Open a database file for a process that must not, or cannot, change it or its directory.

SQLite keeps what was written last in a -wal file, and an index of it in a -shm file. A process that
may only read needs both while a worker runs, and after a worker was killed. A worker that stopped
in order has removed both; then the database file alone is complete.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event

from fedimg.untrusted.quoting import QuotedError

#: How long a read waits for a lock, in seconds.
_LOCK_SECONDS = 5.0
#: SQLite's primary error codes for files that cannot be opened, created or locked by this process.
_UNOPENABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)

#: Identity, size and time of last change of the database file; None where it may change any time.
Fingerprint = tuple[int, int, int] | None


class Unreadable(QuotedError):
    """The database file cannot be read by this process; the text says why and what to do."""


def engine(path: Path) -> sa.Engine:
    """Return an engine whose connections cannot write; each transaction reads one state.

    A connection is closed after its use: the file may have been replaced, and a file that is read
    without its -wal file is read before another process can have changed much.
    """
    created = sa.create_engine(
        "sqlite://", creator=lambda: _connect(path), poolclass=sa.pool.NullPool
    )

    @event.listens_for(created, "begin")
    def begin(connection: sa.Connection) -> None:
        # The driver itself begins no transaction for a SELECT.
        connection.exec_driver_sql("BEGIN")

    return created


def fingerprint(path: Path) -> Fingerprint:
    """Return what tells whether a file that no worker has open has changed; None if one may have.

    Raises Unreadable if the file cannot be examined.
    """
    try:
        if os.access(_beside(path, "-shm"), os.R_OK):
            return None
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error.strerror or "") from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return _open(path, "mode=ro")
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code not in _UNOPENABLE or not os.access(path, os.R_OK):
            raise _unreadable(path, str(error)) from error
        if _wal_is_empty(path):
            # Nobody has the file open, and SQLite may not create its -wal file.
            return _open(path, "immutable=1")
        raise _unreadable(
            path,
            f"its -wal file holds changes, and {path.name}-wal or {path.name}-shm is missing or "
            "not readable; a worker that starts repairs them",
        ) from error


def _open(path: Path, parameters: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?{parameters}",
        uri=True,
        timeout=_LOCK_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA query_only=ON")
        # The first read opens the -wal and -shm files.
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _wal_is_empty(path: Path) -> bool:
    wal = _beside(path, "-wal")
    return not wal.exists() or wal.stat().st_size == 0


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _unreadable(path: Path, reason: str) -> Unreadable:
    return Unreadable(
        f"cannot read the database {path}: {reason or 'it cannot be opened'}; this process needs "
        "the right to read the file and to enter its directory, such as by the group fedimg"
    )
