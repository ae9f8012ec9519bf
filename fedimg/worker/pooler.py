"""Detect a connection pooler that shares the connections of PostgreSQL between clients.

Advisory locks, by which workers know which of them are running, belong to a connection, and so do
settings and prepared statements. If a pooler gives one connection to several clients, two workers
can hold the same lock, and the lock of a dead worker stays held. The test checks how a lock
behaves, not the name of a product: a pooler that keeps a client on one connection, such as
PgBouncer in session mode, works like PostgreSQL itself.
"""

from __future__ import annotations

import secrets
import time
from contextlib import closing
from typing import Any

import psycopg

from fedimg.store.database import StoreError, Unreachable
from fedimg.store.url import postgresql_url
from fedimg.untrusted.failures import reason
from fedimg.worker.shared_lease import connect

#: How long, in seconds, a busy server may take to release the lock of a closed connection.
_RELEASE_SECONDS = 10.0
_POLL_SECONDS = 0.05
#: A custom setting; PostgreSQL only requires a dot in its name.
_SETTING = "fedimg.probe"
_HOLDERS = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted "
    "AND (classid::bigint << 32) | objid::bigint = %s "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)

_Connection = psycopg.Connection[tuple[Any, ...]]


def refuse_shared_connections(address: str) -> None:
    """Raise StoreError if a pooler shares connections to the PostgreSQL at the URL `address`.

    Raises Unreachable if the server does not answer.
    """
    url = postgresql_url(address)
    shown = url.set(drivername="postgresql").render_as_string()
    key = secrets.randbits(62)
    try:
        first = connect(url, "fedimg probe")
    except psycopg.Error as error:
        raise Unreachable(f"cannot use the database {shown}: {reason(error)}") from error
    with closing(first):
        try:
            with closing(connect(url, "fedimg probe")) as second:
                fault = _fault(first, second, key)
        except psycopg.Error as error:
            # Statement mode allows no transactions at all.
            fault = f"a second connection failed: {reason(error)}"
    if fault:
        raise StoreError(
            f"the database {shown} is reached through a pooler that shares connections, such as "
            f"PgBouncer in transaction or statement mode: {fault}. fedimg's locks need a "
            "connection of their own: set `database` to PostgreSQL itself, or to a pool in session "
            "mode"
        )


def _fault(first: _Connection, second: _Connection, key: int) -> str:
    """Return why the two connections are shared; empty if each belongs to one client."""
    token = secrets.token_hex(8)
    # In a single statement, as the next one may run on another connection.
    ((mine, _, _),) = first.execute(
        "SELECT pg_backend_pid(), pg_try_advisory_lock(%s), set_config(%s, %s, false)",
        [key, _SETTING, token],
    ).fetchall()
    # A transaction reserves a connection for the second client, so the first cannot get it.
    second.execute("BEGIN")
    ((theirs,),) = second.execute("SELECT pg_backend_pid()").fetchall()
    if theirs == mine:
        return "two clients got the same connection"
    if _holders(second, key) != [mine]:
        return "one client cannot see the lock of the other"
    ((now, setting),) = first.execute(
        "SELECT pg_backend_pid(), current_setting(%s, true)", [_SETTING]
    ).fetchall()
    if now != mine or setting != token:
        return "a client got another connection for its next statement"
    first.close()
    deadline = time.monotonic() + _RELEASE_SECONDS
    while _holders(second, key):
        if time.monotonic() > deadline:
            return "the lock of a disconnected client stays held"
        time.sleep(_POLL_SECONDS)
    return ""


def _holders(connection: _Connection, key: int) -> list[int]:
    """Return the ids of the server processes that hold an advisory lock."""
    return [int(pid) for (pid,) in connection.execute(_HOLDERS, [key]).fetchall()]
