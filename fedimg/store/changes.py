"""End a change of a job's AMIs in one region, in the transaction that announces it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from fedimg.store.rows import SHARING
from fedimg.store.store import Store
from fedimg.store.tables import amis, changes, repairs

#: The change that gives private AMIs another audience, and that which a repair asked for.
SHARE, REPAIR = "share", "repair"


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

    `messages` are the arguments of `announce`. AMIs that wait for another audience get it next.
    Return False, and do neither, if a later command replaced the change.
    """
    this = this_change(job, region, at) & (changes.c.what == what)
    if not connection.execute(sa.delete(changes).where(this)).rowcount:
        return False
    for key, topic, body in messages:
        store.announce(key, topic, body, connection)
    waiting = sa.select(amis.c.ami).where(
        amis.c.job == job, amis.c.region == region, amis.c.state == SHARING
    )
    if connection.execute(waiting).first():
        _add(store, connection, SHARE, job, region)
    return True


def go_on_with_repair(store: Store, connection: sa.Connection, job: str, region: str) -> None:
    """Add the change for what a repair was asked for and has not ended, unless there is another."""
    asked = sa.select(repairs.c.id).where(
        repairs.c.job == job, repairs.c.region == region, repairs.c.ended.is_(None)
    )
    if connection.execute(asked).first():
        _add(store, connection, REPAIR, job, region)


def _add(store: Store, connection: sa.Connection, what: str, job: str, region: str) -> None:
    now = time.time()
    connection.execute(
        store.insert(changes)
        .values(job=job, region=region, what=what, at=now, tries=0, due=now, error=None)
        .on_conflict_do_nothing()
    )
