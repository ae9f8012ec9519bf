"""Record which private AMIs get another audience, for a worker to carry out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import sqlalchemy as sa

from fedimg.records import as_record
from fedimg.store import rows
from fedimg.store.changes import REPAIR, SHARE, end, go_on_with_repair, this_change
from fedimg.store.rows import AMIRow
from fedimg.store.store import Store
from fedimg.store.tables import amis, changes, jobs
from fedimg.store.twins import TWINS
from fedimg.values.audience import Audience

#: The states in which an AMI's recorded audience is that of later runs, the first ones first. What
#: was removed has the audience of another time, and of what was found on EC2 nobody has decided.
_DECIDING = (
    rows.AUDIENCES,
    (rows.RESTORING, rows.WITHDRAWN, rows.WITHDRAWING, rows.PRIVATE, rows.HIDDEN),
    (rows.DISABLING, rows.DISABLED),
)


class Shares:
    """The audiences of private AMIs."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @contextmanager
    def locked(self, its_jobs: Iterable[str]) -> Iterator[sa.Connection]:
        """Begin a transaction in which no run of some jobs begins, nor any change of their AMIs."""
        with self._store.engine.begin() as connection:
            # No withdrawal, restoration or rule begins to change the same AMIs meanwhile.
            self._store.lock(connection, TWINS)
            chosen = sa.select(jobs.c.job).where(jobs.c.job.in_(sorted(its_jobs)))
            # A run begins by a change of its job's row, and reads the audience afterwards.
            connection.execute(chosen.order_by(jobs.c.job).with_for_update())
            yield connection

    def change(
        self,
        wanted: Iterable[tuple[AMIRow, Audience]],
        *,
        by: str,
        connection: sa.Connection | None = None,
    ) -> float:
        """Record the audience that each of some private AMIs gets; return the time of that.

        What is shared gets it from the worker, by a change of its job in its region; an AMI that is
        withdrawn or disabled gets it when it is restored. An AMI whose state is another one than
        its row says is left alone. `connection` is that of `locked`, in which `wanted` was found.
        """
        at = time.time()
        wanted = list(wanted)
        within: AbstractContextManager[sa.Connection] = (
            self.locked({row.job for row, _ in wanted})
            if connection is None
            else nullcontext(connection)
        )
        with within as connection:
            for row, audience in wanted:
                values: dict[str, Any] = {"audience": as_record(audience)}
                if row.state in rows.AUDIENCES:
                    values |= {"state": rows.SHARING, "changed_by": by, "changed_at": at}
                changed = connection.execute(
                    sa.update(amis)
                    .where(amis.c.ami == row.ami, amis.c.region == row.region)
                    .where(amis.c.state == row.state)
                    .values(**values)
                )
                if changed.rowcount and row.state in rows.AUDIENCES:
                    self._add_change(connection, row.job, row.region, at)
        return at

    def _add_change(self, connection: sa.Connection, job: str, region: str, at: float) -> None:
        """Add the change; of other kinds than a repair one goes first (fedimg.store.changes)."""
        values = {"what": SHARE, "at": at, "tries": 0, "due": at, "error": None}
        connection.execute(
            self._store.insert(changes)
            .values(job=job, region=region, **values)
            .on_conflict_do_update(
                index_elements=["job", "region"],
                set_=values,
                where=changes.c.what.in_((SHARE, REPAIR)),
            )
        )

    def done(
        self,
        job: str,
        region: str,
        at: float,
        shared: Iterable[AMIRow],
        messages: Iterable[tuple[str, str, dict[str, Any]]],
    ) -> bool:
        """Record that a change was made, with the AMIs that have their audience, and announce it.

        `messages` are the arguments of `announce`. Return False, and do neither, if a later command
        replaced the change.
        """
        now = time.time()
        this = this_change(job, region, at) & (changes.c.what == SHARE)
        with self._store.engine.begin() as connection:
            self._store.lock(connection, TWINS)
            if not connection.execute(sa.select(changes.c.job).where(this)).first():
                return False
            for row in shared:
                connection.execute(
                    sa.update(amis)
                    .where(amis.c.ami == row.ami, amis.c.region == row.region)
                    .where(amis.c.state == rows.SHARING)
                    .values(
                        state=rows.SHARED,
                        difference="",
                        shared_at=sa.func.coalesce(amis.c.shared_at, now),
                    )
                )
            end(self._store, connection, SHARE, job, region, at, messages)
            go_on_with_repair(self._store, connection, job, region)
        return True

    def in_reach(self, job: str, region: str) -> list[AMIRow]:
        """Return a job's AMIs in a region that others than the account can use, by the record.

        While the audience of one is being changed, its row has the new one.
        """
        return [
            each
            for each in self._store.amis_of(job)
            if each.region == region and each.state in (rows.PUBLIC, *rows.AUDIENCES)
        ]

    def of_job(self, job: str) -> tuple[bool | None, Audience | None]:
        """Return whether a job's plain AMIs are public, and its audience, as far as it began.

        Of what has not come into others' reach yet, which is None, the settings decide.
        """
        found = self._store.amis_of(job)
        plain = [each for each in found if not each.encrypted]
        public: bool | None = None
        if any(each.audience is not None for each in plain):
            public = False
        elif any(each.public or each.published_at is not None for each in plain):
            public = True
        for states in _DECIDING:
            audiences = [each.shared_with for each in found if each.state in states]
            # EC2 shows nobody for what it has disabled, when the database is rebuilt.
            empty_counts = rows.DISABLED not in states
            if known := [each for each in audiences if each or (empty_counts and each is not None)]:
                return public, known[-1]
        return public, None
