"""Record which images are withdrawn or restored, and what a worker has to do about that."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from fedimg.store import rows
from fedimg.store.changes import (
    DELETE,
    DISABLE,
    REPAIR,
    RESTORE,
    SHARE,
    WITHDRAW,
    end,
    go_on_with_repair,
)
from fedimg.store.rows import AMIRow
from fedimg.store.store import Store
from fedimg.store.tables import amis, changes, offered, withdrawals
from fedimg.store.twins import TWINS

#: The change that carries on with AMIs in a state, the most urgent first.
_NEXT = {
    rows.WITHDRAWING: WITHDRAW,
    rows.RESTORING: RESTORE,
    rows.DISABLING: DISABLE,
    rows.DELETING: DELETE,
}


@dataclass(frozen=True)
class Withdrawal:
    """The withdrawal of a job's image; `at` is in seconds since the epoch."""

    job: str
    at: float
    by: str
    reason: str
    replacement: str | None


class Withdrawals:
    """The withdrawals, with the changes that carry them out."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @contextmanager
    def locked(self) -> Iterator[sa.Connection]:
        """Begin a transaction in which no job is added, and none begins to publish.

        A job of the same image is either added before, and withdrawn, or never.
        """
        with self._store.engine.begin() as connection:
            self._store.lock(connection, TWINS)
            yield connection

    def _within(self, connection: sa.Connection | None) -> AbstractContextManager[sa.Connection]:
        return self.locked() if connection is None else nullcontext(connection)

    def withdraw(
        self,
        affected: Mapping[str, Collection[AMIRow]],
        regions: Mapping[str, Collection[str]],
        *,
        by: str,
        reason: str,
        replacement: str | None,
        connection: sa.Connection | None = None,
    ) -> float:
        """Record the withdrawal of some jobs; return its time, which identifies the changes.

        `affected` has each job's AMIs that others may have used, `regions` those where a change has
        to be made. From now on no job of the same image is queued or publishes. `connection` is
        that of `locked`, in which they were found.
        """
        at = time.time()
        values = {
            "at": at,
            "by": by,
            "reason": reason,
            "replacement": replacement,
            "restored_at": None,
            "restored_by": None,
        }
        changed = {"changed_by": by, "changed_at": at, "reason": reason, "replacement": replacement}
        with self._within(connection) as connection:
            for job, its_amis in affected.items():
                connection.execute(
                    self._store.insert(withdrawals)
                    .values(job=job, **values)
                    .on_conflict_do_update(index_elements=["job"], set_=values)
                )
                self._set_amis(connection, its_amis, state=rows.WITHDRAWING, **changed)
                self._record_offers(connection, its_amis, at)
                self._add_changes(connection, WITHDRAW, job, regions[job], at)
        return at

    def restore(
        self,
        affected: Mapping[str, Collection[AMIRow]],
        *,
        by: str,
        connection: sa.Connection | None = None,
    ) -> float:
        """Record that some jobs' AMIs become available again; return the time of that.

        `connection` is that of `locked`, in which the AMIs were found.
        """
        at = time.time()
        with self._within(connection) as connection:
            for job, its_amis in affected.items():
                connection.execute(
                    sa.update(withdrawals)
                    .where(withdrawals.c.job == job)
                    .values(restored_at=at, restored_by=by)
                )
                self._set_amis(
                    connection, its_amis, state=rows.RESTORING, changed_by=by, changed_at=at
                )
                # No worker has recorded who may use these, and nobody could: without a record,
                # everybody would.
                never_public = [
                    ami
                    for ami in its_amis
                    if ami.state == rows.WITHDRAWING
                    and not ami.public
                    and ami.published_at is None
                    and ami.audience is None
                ]
                self._record_nobody(connection, never_public)
                # Regions that were away are not withdrawn or disabled any more, except for AMIs
                # that are not restored: these are withdrawn first.
                withdrawing = self._regions(connection, job, rows.WITHDRAWING)
                disabling = self._regions(connection, job, rows.DISABLING)
                goes_on = sa.or_(
                    changes.c.what.in_((DELETE, REPAIR, SHARE)),
                    (changes.c.what == WITHDRAW) & changes.c.region.in_(withdrawing),
                    (changes.c.what == DISABLE) & changes.c.region.in_(disabling),
                )
                connection.execute(sa.delete(changes).where(changes.c.job == job, ~goes_on))
                self._add_changes(connection, WITHDRAW, job, withdrawing, at, replace=False)
                restored = {ami.region for ami in its_amis} - withdrawing
                self._add_changes(connection, RESTORE, job, restored, at)
        return at

    def of(self, job: str) -> Withdrawal | None:
        """Return the withdrawal of a job that was not restored since, or None."""
        return next(iter(self._read(withdrawals.c.job == job)), None)

    def all(self) -> list[Withdrawal]:
        """Return the withdrawals that were not restored since, oldest first."""
        return self._read(sa.true())

    def done(
        self,
        what: str,
        job: str,
        region: str,
        at: float,
        by_state: Mapping[str, Iterable[AMIRow]],
        messages: Iterable[tuple[str, str, dict[str, Any]]] = (),
    ) -> bool:
        """Record that a change was made, with the AMIs by their new state, and announce it.

        `messages` are the arguments of `announce`. Return False, and do neither, if a later command
        replaced the change.
        """
        with self.locked() as connection:
            if not end(self._store, connection, what, job, region, at, messages):
                return False
            for state, its_amis in by_state.items():
                # A run may have made them public after the command.
                others = [ami for ami in its_amis if ami.public or ami.audience is not None]
                self._record_offers(connection, others, at)
                self._set_amis(connection, its_amis, state=state, public=state == rows.PUBLIC)
            # This change may have replaced another one of AMIs that it did not have, which goes on.
            for state, next_change in _NEXT.items():
                if region in self._regions(connection, job, state):
                    self._add_changes(connection, next_change, job, [region], time.time())
                    break
            else:
                go_on_with_repair(self._store, connection, job, region)
        return True

    def not_restored(self, its_amis: Iterable[AMIRow], state: str) -> None:
        """Record that some AMIs cannot be restored: they stay withdrawn, or are withdrawn again."""
        # One that is withdrawn again may be public until then.
        values = {"state": state} | ({"public": False} if state == rows.WITHDRAWN else {})
        for ami in its_amis:
            self._store.write(
                sa.update(amis)
                .where(amis.c.ami == ami.ami, amis.c.region == ami.region)
                .where(amis.c.state == rows.RESTORING)
                .values(**values)
            )

    def record_permissions(self, ami: AMIRow, permissions: Mapping[str, Any]) -> None:
        """Record who might use an AMI and its snapshot, unless that is recorded already."""
        self._store.write(
            sa.update(amis)
            .where(amis.c.ami == ami.ami, amis.c.region == ami.region)
            .where(amis.c.permissions.is_(None))
            .values(permissions=dict(permissions))
        )

    def accept(
        self,
        ami: AMIRow,
        state: str,
        by: str,
        reason: str,
        *,
        published_at: float | None = None,
    ) -> bool:
        """Record an AMI's state as a person made it on EC2; a clean-up never removes it.

        `published_at` is since when a public AMI may have been public, in epoch seconds; None if
        nothing tells, and it counts from now. Return False, and record nothing, if its recorded
        state is not that of `ami` any more.
        """
        now = time.time()
        values: dict[str, Any] = {}
        if state == rows.PUBLIC:
            # Who could use it before tells nothing any more.
            values["permissions"] = sa.null()
            values["published_at"] = sa.func.coalesce(amis.c.published_at, published_at or now)
        with self.locked() as connection:
            changed = connection.execute(
                sa.update(amis)
                .where(amis.c.ami == ami.ami, amis.c.region == ami.region)
                .where(sa.func.coalesce(amis.c.state, ami.state) == ami.state)
                .values(
                    state=state,
                    public=state == rows.PUBLIC,
                    **values,
                    changed_by=by,
                    changed_at=now,
                    reason=reason,
                    difference="",
                )
            )
            if changed.rowcount:
                self._record_offers(connection, [ami], now)
        return bool(changed.rowcount)

    def _record_nobody(self, connection: sa.Connection, its_amis: Iterable[AMIRow]) -> None:
        for ami in its_amis:
            connection.execute(
                sa.update(amis)
                .where(amis.c.ami == ami.ami, amis.c.region == ami.region)
                .where(amis.c.permissions.is_(None))
                .values(permissions={"launch": [], "snapshot": []})
            )

    def _record_offers(
        self, connection: sa.Connection, its_amis: Iterable[AMIRow], at: float
    ) -> None:
        """Record that others may have used some AMIs and their snapshots.

        `public` is about to change, and AMIs that former versions made public have no other mark.
        """
        for ami in its_amis:
            for id in (ami.ami, ami.snapshot):
                connection.execute(
                    self._store.insert(offered)
                    .values(id=id, region=ami.region, job=ami.job, at=at)
                    .on_conflict_do_nothing()
                )

    def _set_amis(
        self, connection: sa.Connection, its_amis: Iterable[AMIRow], **values: object
    ) -> None:
        for ami in its_amis:
            if values["state"] in (rows.PUBLIC, rows.SHARED, rows.PRIVATE):
                # Recorded anew when it is withdrawn the next time.
                values["permissions"] = sa.null()
            connection.execute(
                sa.update(amis)
                .where(amis.c.ami == ami.ami, amis.c.region == ami.region)
                .values(**values)
            )

    def _regions(self, connection: sa.Connection, job: str, state: str) -> set[str]:
        """Return the regions where a job has an AMI in a state."""
        query = sa.select(amis.c.region).where(amis.c.job == job, amis.c.state == state)
        return set(connection.execute(query.distinct()).scalars())

    def _add_changes(
        self,
        connection: sa.Connection,
        what: str,
        job: str,
        regions: Iterable[str],
        at: float,
        *,
        replace: bool = True,
    ) -> None:
        """Add a change in some regions, which replaces the one there unless `replace` is False."""
        values = {"what": what, "at": at, "tries": 0, "due": at, "error": None}
        for region in sorted(set(regions)):
            added = self._store.insert(changes).values(job=job, region=region, **values)
            connection.execute(
                added.on_conflict_do_update(index_elements=["job", "region"], set_=values)
                if replace
                else added.on_conflict_do_nothing()
            )

    def _read(self, condition: sa.ColumnElement[bool]) -> list[Withdrawal]:
        query = (
            sa.select(withdrawals)
            .where(withdrawals.c.restored_at.is_(None), condition)
            .order_by(withdrawals.c.at, withdrawals.c.job)
        )
        with self._store.engine.connect() as connection:
            return [
                Withdrawal(row.job, row.at, row.by, row.reason, row.replacement)
                for row in connection.execute(query)
            ]
