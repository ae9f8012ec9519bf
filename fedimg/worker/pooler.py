"""Whether a pooler stands before PostgreSQL that gives one of its connections to several clients.

The locks by which workers tell who lives, the settings of a connection and its prepared statements
belong to one connection. Where several clients share it, or one is moved to another between two
transactions, two workers are one, and what a dead one held stays held. It is found by what happens
to a lock, not by a name: a pool that keeps a client on one connection for as long as it is
connected, such as PgBouncer's in session mode, is as good as PostgreSQL itself.
"""

from __future__ import annotations

import secrets
import time
from contextlib import closing
from typing import Any

import psycopg

from fedimg.store.database import StoreError, Unreachable
from fedimg.store.url import postgresql_url
from fedimg.worker.shared_lease import connect

#: Until the lock of a connection that was closed must be gone, in seconds, on a busy server.
_GONE_SECONDS = 10.0
_LOOK_SECONDS = 0.05
#: A setting of our own, of which PostgreSQL asks only that there is a dot in it.
_SETTING = "fedimg.probe"
_HOLDERS = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted "
    "AND (classid::bigint << 32) | objid::bigint = %s "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)

_Connection = psycopg.Connection[tuple[Any, ...]]


def refuse_shared_connections(address: str) -> None:
    """Raise StoreError where connections to the PostgreSQL at `address` are shared.

    Raises Unreachable when it cannot be connected to.
    """
    url = postgresql_url(address)
    place = url.set(drivername="postgresql").render_as_string()
    key = secrets.randbits(62)
    try:
        first = connect(url, "fedimg probe")
    except psycopg.Error as error:
        raise Unreachable(f"cannot use the database {place}: {str(error).strip()}") from error
    with closing(first):
        try:
            with closing(connect(url, "fedimg probe")) as second:
                fault = _fault(first, second, key)
        except psycopg.Error as error:
            # Statement mode allows no transactions at all.
            fault = f"two connections at once do not work: {str(error).strip()}"
    if fault:
        raise StoreError(
            f"the database {place} is reached through a pooler that shares connections, such as "
            f"PgBouncer in transaction or statement mode: {fault}. fedimg's locks belong to "
            "connections: name PostgreSQL itself in `database`, or a pool in session mode"
        )


def _fault(first: _Connection, second: _Connection, key: int) -> str:
    """What is wrong with the connections; empty when each is its client's own."""
    token = secrets.token_hex(8)
    # One statement: the next one may run on another connection.
    ((mine, _, _),) = first.execute(
        "SELECT pg_backend_pid(), pg_try_advisory_lock(%s), set_config(%s, %s, false)",
        [key, _SETTING, token],
    ).fetchall()
    # From here on the second has a connection for itself, so that the first cannot be given it.
    second.execute("BEGIN")
    ((theirs,),) = second.execute("SELECT pg_backend_pid()").fetchall()
    if theirs == mine:
        return "two clients were given the same connection"
    if _holders(second, key) != [mine]:
        return "a lock that one client took is not seen as held by another"
    ((now, said),) = first.execute(
        "SELECT pg_backend_pid(), current_setting(%s, true)", [_SETTING]
    ).fetchall()
    if now != mine or said != token:
        return "a client was moved to another connection between two statements"
    first.close()
    deadline = time.monotonic() + _GONE_SECONDS
    while _holders(second, key):
        if time.monotonic() > deadline:
            return "the lock of a client that has gone stays held"
        time.sleep(_LOOK_SECONDS)
    return ""


def _holders(connection: _Connection, key: int) -> list[int]:
    """The server's processes that hold an advisory lock."""
    return [int(pid) for (pid,) in connection.execute(_HOLDERS, [key]).fetchall()]
