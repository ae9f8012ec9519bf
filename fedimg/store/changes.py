"""Keep the changes of a job's AMIs in one region that a worker has to carry out, and end them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from fedimg.store.rows import SHARING
from fedimg.store.store import Store
from fedimg.store.tables import amis, changes, repairs

#: What a change does with the AMIs of a job in a region.
WITHDRAW, RESTORE = "withdraw", "restore"
#: … and by the rules of retention.
DEPRECATE, DISABLE, DELETE = "deprecate", "disable", "delete"
#: … as a person asked after a comparison with EC2, and to give private AMIs another audience.
REPAIR, SHARE = "repair", "share"
CHANGES = (WITHDRAW, RESTORE, DEPRECATE, DISABLE, DELETE, REPAIR, SHARE)
#: For so many seconds a change that was queued is not queued again.
_QUEUED_SECONDS = 60.0


@dataclass(frozen=True)
class Change:
    """A change of a job's AMIs in a region that has not been carried out yet.

    `at` identifies the command that asked for it; `tries` counts the failed tries, `error` is the
    last failure. Times are in seconds since the epoch.
    """

    job: str
    region: str
    what: str
    at: float
    tries: int
    due: float
    error: str | None


class PendingChanges:
    """The changes of all kinds that are still to be carried out."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> list[Change]:
        """Return the pending changes, ordered by time, job and region."""
        return self._read(sa.true())

    def due(self) -> list[Change]:
        """Return the changes that are due."""
        return self._read(changes.c.due <= time.time())

    def is_pending(self, what: str, job: str, region: str, at: float) -> bool:
        """Return whether this very change still has to be made: no later command replaced it."""
        found = self._read((changes.c.job == job) & (changes.c.region == region))
        return any((change.what, change.at) == (what, at) for change in found)

    def queued(self, change: Change) -> None:
        """Record that a change is queued."""
        self._update(change.job, change.region, change.at, due=time.time() + _QUEUED_SECONDS)

    def postpone(self, job: str, region: str, at: float, error: str, pause: float) -> None:
        """Record that a change failed, to be tried again after a pause in seconds."""
        self._update(
            job,
            region,
            at,
            error=error,
            tries=changes.c.tries + 1,
            due=time.time() + pause,
        )

    def _read(self, condition: sa.ColumnElement[bool]) -> list[Change]:
        order = (changes.c.at, changes.c.job, changes.c.region)
        query = sa.select(changes).where(condition).order_by(*order)
        with self._store.engine.connect() as connection:
            return [Change(**row) for row in connection.execute(query).mappings()]

    def _update(self, job: str, region: str, at: float, **values: object) -> None:
        self._store.write(sa.update(changes).where(this_change(job, region, at)).values(**values))


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
