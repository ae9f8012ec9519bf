"""Record the repairs that a person asked for: a worker carries them out as changes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from fedimg.store import rows
from fedimg.store.changes import REPAIR, end
from fedimg.store.rows import AMIRow
from fedimg.store.store import Store
from fedimg.store.tables import amis, changes, repairs
from fedimg.store.twins import TWINS


@dataclass(frozen=True)
class Repair:
    """A request about one AMI or snapshot, such as `publish AMI`; times are in epoch seconds.

    `ended` is None until it was done or given up; `given_up` is why it was not.
    """

    what: str
    id: str
    region: str
    job: str
    at: float
    by: str
    ended: float | None
    given_up: str | None


class Repairs:
    """The repairs that were asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ask(self, actions: Iterable[tuple[str, str, str, str]], *, by: str) -> set[tuple[str, str]]:
        """Record actions for a worker; return the jobs and regions of those that were recorded.

        An action is the kind, the id of the AMI or snapshot, the region and the job. A job has one
        change in a region at a time: where it has another one, nothing is recorded.
        """
        grouped: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for what, id, region, job in actions:
            grouped.setdefault((job, region), []).append((what, id))
        at = time.time()
        asked = set()
        with self._store.engine.begin() as connection:
            # No withdrawal, restoration or rule begins to change the same AMIs meanwhile.
            self._store.lock(connection, TWINS)
            for (job, region), group in sorted(grouped.items()):
                change = {"what": REPAIR, "at": at, "tries": 0, "due": at, "error": None}
                added = connection.execute(
                    self._store.insert(changes)
                    .values(job=job, region=region, **change)
                    .on_conflict_do_nothing()
                    .returning(changes.c.job)
                )
                if added.first() is None:
                    continue
                # What an earlier request still says has been decided anew.
                connection.execute(
                    sa.update(repairs)
                    .where(_open(job, region))
                    .values(ended=at, given_up="it was asked for anew")
                )
                its = {"job": job, "region": region, "at": at, "by": by}
                new = [{"what": what, "resource": id, **its} for what, id in group]
                connection.execute(sa.insert(repairs), new)
                asked.add((job, region))
        return asked

    def open(self, job: str, region: str) -> list[Repair]:
        """Return what was asked for about a job's AMIs in a region and has not ended."""
        return self._read(_open(job, region))

    def pending(self) -> set[tuple[str, str]]:
        """Return the regions and ids about which something was asked for that has not ended."""
        return {(each.region, each.id) for each in self._read(repairs.c.ended.is_(None))}

    def all(self) -> list[Repair]:
        """Return everything that was asked for, oldest first."""
        return self._read()

    def leave(self, left: Mapping[tuple[str, str], str], job: str, region: str) -> None:
        """Give up actions; `left` has the reasons, by kind and id."""
        with self._store.engine.begin() as connection:
            for (what, id), why in left.items():
                this = (repairs.c.what == what) & (repairs.c.resource == id)
                connection.execute(
                    sa.update(repairs)
                    .where(_open(job, region), this)
                    .values(ended=time.time(), given_up=why)
                )

    def done(
        self,
        job: str,
        region: str,
        at: float,
        published: Sequence[AMIRow],
        messages: Iterable[tuple[str, str, dict[str, Any]]],
    ) -> bool:
        """Record that what is still asked for was done, with the AMIs that are public again.

        `messages` are the arguments of `announce`. Return False, and record and announce nothing,
        if a later command replaced the change.
        """
        with self._store.engine.begin() as connection:
            self._store.lock(connection, TWINS)
            if not end(self._store, connection, REPAIR, job, region, at, messages):
                return False
            for row in published:
                connection.execute(
                    sa.update(amis)
                    .where(amis.c.ami == row.ami, amis.c.region == row.region)
                    .where(sa.func.coalesce(amis.c.state, rows.PUBLIC) == rows.PUBLIC)
                    # Who could use it before tells nothing any more.
                    .values(permissions=sa.null(), difference="")
                )
            connection.execute(
                sa.update(repairs).where(_open(job, region)).values(ended=time.time())
            )
        return True

    def _read(self, *conditions: sa.ColumnElement[bool]) -> list[Repair]:
        query = sa.select(repairs).where(*conditions).order_by(repairs.c.id)
        with self._store.engine.connect() as connection:
            return [
                Repair(
                    row.what,
                    row.resource,
                    row.region,
                    row.job,
                    row.at,
                    row.by,
                    row.ended,
                    row.given_up,
                )
                for row in connection.execute(query)
            ]


def _open(job: str, region: str) -> sa.ColumnElement[bool]:
    return (repairs.c.job == job) & (repairs.c.region == region) & repairs.c.ended.is_(None)
