"""Record the effects of the rules of retention: asked for as changes, carried out by a worker.

The AMI's row has the state; a pruning has who asked for what, when, and by which rule and facts.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from fedimg.store import rows
from fedimg.store.changes import DELETE, DEPRECATE, DISABLE, end
from fedimg.store.rows import AMIRow
from fedimg.store.store import Store
from fedimg.store.tables import amis, changes, prunings
from fedimg.store.twins import TWINS

#: The state that an AMI gets by what is asked for; a deprecation changes none.
_TO = {DISABLE: rows.DISABLING, DELETE: rows.DELETING}
#: … and when that is done.
_DONE = {DISABLE: rows.DISABLED, DELETE: rows.DELETED}


def state_before(what: str, row: AMIRow) -> str:
    """Return the state in which an AMI has to be before a change; a private one has an audience."""
    if what == DELETE:
        return rows.DISABLED
    return rows.PUBLIC if row.audience is None else rows.SHARED


@dataclass(frozen=True)
class Request:
    """A request about one AMI, and its reason; `deprecate_at` is in seconds since the epoch."""

    row: AMIRow
    what: str
    reason: str
    deprecate_at: float | None = None


@dataclass(frozen=True)
class Pruning:
    """A request about one AMI as it is recorded; times are in seconds since the epoch."""

    ami: str
    region: str
    job: str
    what: str
    at: float
    by: str
    reason: str
    deprecate_at: float | None
    unlaunched: bool
    ended: float | None
    kept: str | None


class Prunings:
    """The requests that the rules of retention made."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ask(
        self, requests: Iterable[Request], *, by: str, unlaunched: bool = False
    ) -> list[Request]:
        """Record what a worker has to do; return the requests that were recorded.

        A job has one change in a region at a time, and an AMI may have changed since the decision:
        other requests are for the next time. Earlier requests end that a withdrawal or a
        restoration replaced: nobody carries them out any more.
        """
        grouped: dict[tuple[str, str], list[Request]] = {}
        for request in requests:
            grouped.setdefault((request.row.job, request.row.region), []).append(request)
        at = time.time()
        asked: list[Request] = []
        with self._store.engine.begin() as connection:
            # No withdrawal and no restoration changes the same AMIs meanwhile.
            self._store.lock(connection, TWINS)
            connection.execute(
                sa.update(prunings)
                .where(prunings.c.ended.is_(None), _replaced())
                .values(ended=at, kept="a later command replaced it")
            )
            for (job, region), group in sorted(grouped.items()):
                what = next(
                    each
                    for each in (DELETE, DISABLE, DEPRECATE)
                    if any(request.what == each for request in group)
                )
                there = sa.select(changes.c.job).where(
                    changes.c.job == job, changes.c.region == region
                )
                if connection.execute(there).first():
                    continue
                marked = [
                    request
                    for request in group
                    if request.what == what
                    and self._mark(connection, request, at, by, unlaunched=unlaunched)
                ]
                if marked:
                    connection.execute(
                        sa.insert(changes).values(
                            job=job, region=region, what=what, at=at, tries=0, due=at, error=None
                        )
                    )
                asked += marked
        return asked

    def _mark(
        self, connection: sa.Connection, request: Request, at: float, by: str, *, unlaunched: bool
    ) -> bool:
        """Record one request; return False if the AMI's state is another than it was."""
        row, what = request.row, request.what
        before = state_before(what, row)
        changed = connection.execute(
            sa.update(amis)
            .where(amis.c.ami == row.ami, amis.c.region == row.region)
            .where(sa.func.coalesce(amis.c.state, rows.PUBLIC) == before)
            .where(amis.c.public == (before == rows.PUBLIC))
            .values(state=_TO.get(what, before))
        )
        if not changed.rowcount:
            return False
        connection.execute(
            sa.insert(prunings).values(
                ami=row.ami,
                region=row.region,
                job=row.job,
                what=what,
                at=at,
                by=by,
                reason=request.reason,
                deprecate_at=request.deprecate_at,
                unlaunched=unlaunched,
            )
        )
        return True

    def open(self, what: str, job: str, region: str) -> list[Pruning]:
        """Return what was asked for about a job's AMIs in a region and has not ended."""
        return self._read(
            prunings.c.what == what,
            prunings.c.job == job,
            prunings.c.region == region,
            prunings.c.ended.is_(None),
        )

    def accept_deprecation(self, row: AMIRow, at: float | None, by: str, reason: str) -> None:
        """Record a time of deprecation that a person gave an AMI on EC2, and who accepted it.

        The AMI's own row has no such change, as the days of a rule would count from there.
        """
        now = time.time()
        with self._store.engine.begin() as connection:
            self._set(connection, row, deprecate_at=at, difference="")
            connection.execute(
                sa.insert(prunings).values(
                    ami=row.ami,
                    region=row.region,
                    job=row.job,
                    what=DEPRECATE,
                    at=now,
                    by=by,
                    reason=f"done by hand and accepted: {reason}",
                    deprecate_at=at,
                    ended=now,
                )
            )

    def count(self, by: str, since: float) -> int:
        """Return how many AMIs `by` has changed since a time, or still has to change."""
        query = (
            sa.select(sa.func.count())
            .select_from(prunings)
            .where(prunings.c.by == by, prunings.c.at > since, prunings.c.kept.is_(None))
        )
        with self._store.engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def all(self) -> list[Pruning]:
        """Return everything that was asked for, oldest first."""
        return self._read()

    def keep(self, what: str, kept: Mapping[str, str], its_amis: Sequence[AMIRow]) -> None:
        """Give up what was asked for about some AMIs; `kept` has the reasons, by AMI.

        The permissions of what stays public are recorded anew by the next request.
        """
        values: dict[str, Any] = {"permissions": sa.null()} if what == DISABLE else {}
        with self._store.engine.begin() as connection:
            for row in its_amis:
                if row.ami in kept:
                    self._set(connection, row, state=state_before(what, row), **values)
                    self._end(connection, what, row, kept=kept[row.ami])

    def postpone_deprecation(self, ami: AMIRow, at: float) -> None:
        """Record a later time at which an AMI is to be deprecated."""
        self._store.write(sa.update(prunings).where(_open(DEPRECATE, ami)).values(deprecate_at=at))

    def done(
        self,
        what: str,
        job: str,
        region: str,
        at: float,
        its_amis: Collection[AMIRow],
        deprecated: Mapping[str, float],
        messages: Iterable[tuple[str, str, dict[str, Any]]] = (),
    ) -> bool:
        """Record that a change was made; `deprecated` has the times of deprecation by AMI.

        What is gone stays marked as once public: no source publishes the same bytes again.
        `messages` are the arguments of `announce`. Return False, and record and announce nothing,
        if a later command replaced the change.
        """
        now = time.time()
        opened = {each.ami: each for each in self.open(what, job, region)}
        with self._store.engine.begin() as connection:
            self._store.lock(connection, TWINS)
            if not end(self._store, connection, what, job, region, at, messages):
                return False
            for row in its_amis:
                state = _DONE.get(what, state_before(what, row))
                values: dict[str, Any] = {"state": state, "public": state == rows.PUBLIC}
                asked = opened.get(row.ami)
                if what == DISABLE:
                    # The days until the removal count from here.
                    values["changed_at"] = now
                    values |= {"changed_by": asked.by, "reason": asked.reason} if asked else {}
                if row.ami in deprecated:
                    values["deprecate_at"] = deprecated[row.ami]
                self._set(connection, row, **values)
                self._end(connection, what, row)
        return True

    def _set(self, connection: sa.Connection, row: AMIRow, **values: object) -> None:
        connection.execute(
            sa.update(amis)
            .where(amis.c.ami == row.ami, amis.c.region == row.region)
            .values(**values)
        )

    def _end(
        self, connection: sa.Connection, what: str, row: AMIRow, kept: str | None = None
    ) -> None:
        connection.execute(
            sa.update(prunings).where(_open(what, row)).values(ended=time.time(), kept=kept)
        )

    def _read(self, *conditions: sa.ColumnElement[bool]) -> list[Pruning]:
        columns = [column for column in prunings.c if column.name != "id"]
        query = sa.select(*columns).where(*conditions).order_by(prunings.c.id)
        with self._store.engine.connect() as connection:
            return [Pruning(**row) for row in connection.execute(query).mappings()]


def _replaced() -> sa.ColumnElement[bool]:
    """Return the condition that no change is left that carries out a request.

    A withdrawal or restoration only goes before a removal (fedimg.store.withdrawals).
    """
    carried_out = sa.exists().where(
        changes.c.job == prunings.c.job,
        changes.c.region == prunings.c.region,
        (changes.c.what == prunings.c.what) | (prunings.c.what == DELETE),
    )
    return ~carried_out


def _open(what: str, row: AMIRow) -> sa.ColumnElement[bool]:
    return sa.and_(
        prunings.c.what == what,
        prunings.c.ami == row.ami,
        prunings.c.region == row.region,
        prunings.c.ended.is_(None),
    )
