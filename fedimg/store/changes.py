"""End a change of a job's AMIs in one region, in the transaction that announces it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from fedimg.store.store import Store
from fedimg.store.tables import changes


def this_change(job: str, region: str, at: float) -> sa.ColumnElement[bool]:
    """Return the condition by which a change is found that was asked for at a time."""
    return sa.and_(changes.c.job == job, changes.c.region == region, changes.c.at == at)


def end(
    store: Store,
    connection: sa.Connection,
    what: str,
    job: str,
    region: str,
    at: float,
    messages: Iterable[tuple[str, str, dict[str, Any]]],
) -> bool:
    """End a change that was carried out, and announce it.

    `messages` are the arguments of `announce`. Return False, and do neither, if a later command
    replaced the change.
    """
    this = this_change(job, region, at) & (changes.c.what == what)
    if not connection.execute(sa.delete(changes).where(this)).rowcount:
        return False
    for key, topic, body in messages:
        store.announce(key, topic, body, connection)
    return True
