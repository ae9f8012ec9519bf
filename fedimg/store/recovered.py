"""Record jobs and AMIs that were found on EC2 after the database was lost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from fedimg.images import Disk, RawImage
from fedimg.progress import FAILED, PUBLIC
from fedimg.store import rows
from fedimg.store.rows import AMIRow, image_columns
from fedimg.store.store import Store
from fedimg.store.tables import amis, changes, jobs, offered, outbox, regions, tests, withdrawals
from fedimg.store.twins import TWINS

#: The run of a job of which the database knows EC2's tags alone: it has seen no run of it.
NO_RUN = 0
#: Who withdrew an image, and why, where the database that knew it was lost.
_UNKNOWN_PERSON = "unknown"
_UNKNOWN_REASON = "withdrawn before the database was rebuilt, and the reason was lost with it"


@dataclass(frozen=True)
class RecoveredTest:
    """A boot check that passed, by a tag: its region, and an AMI of the type that it is about."""

    region: str
    virt_type: str
    volume_type: str
    ami: str


@dataclass(frozen=True)
class RecoveredJob:
    """A job as the tags of its AMIs tell it; times are in seconds since the epoch.

    `state` and `error` are those of the job, `regions` the error by region, None where all is
    public. `amis` are the unrecorded AMIs. `withdrawn` is the time of the job's withdrawal,
    `hidden` are recorded AMIs that get another state by it, and `to_withdraw` are the regions where
    it is not finished. `keys` are the keys of the messages that the job announced, with their
    topics.
    """

    image: RawImage
    state: str
    error: str | None
    created: float
    updated: float
    disk: Disk | None = None
    regions: Mapping[str, str | None] = field(default_factory=dict)
    amis: list[AMIRow] = field(default_factory=list)
    hidden: list[AMIRow] = field(default_factory=list)
    tests: list[RecoveredTest] = field(default_factory=list)
    withdrawn: float | None = None
    to_withdraw: frozenset[str] = frozenset()
    keys: Mapping[str, str] = field(default_factory=dict)


class Recovered:
    """Writes recovered jobs; a job is written whole or not at all, and as often as one likes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def withdrawals(self) -> dict[str, tuple[float, bool]]:
        """Return by job when it was withdrawn or restored, and whether it is withdrawn."""
        with self._store.engine.connect() as connection:
            found = connection.execute(sa.select(withdrawals)).all()
        return {
            row.job: (row.at, True) if row.restored_at is None else (row.restored_at, False)
            for row in found
        }

    def record(self, job: RecoveredJob) -> None:
        """Record a job and its unrecorded AMIs, in one transaction.

        What the database knows of the job stays, unless it has seen no run of it. Each AMI and
        snapshot counts as public once, so that no clean-up removes it by itself.
        """
        name, now = job.image.job, time.time()
        with self._store.engine.begin() as connection:
            # A job of the same image is added either before, and known, or not at all.
            self._store.lock(connection, TWINS)
            if self._has_no_run(connection, job):
                for region, error in job.regions.items():
                    self._set_region(connection, name, region, error)
            self._add(connection, amis, [vars(row) for row in job.amis])
            self._add(
                connection,
                offered,
                [
                    {"id": id, "region": row.region, "job": name, "at": row.published_at or now}
                    for row in job.amis
                    for id in (row.ami, row.snapshot)
                ],
            )
            self._add(
                connection,
                tests,
                [
                    {
                        **vars(test),
                        "job": name,
                        "status": "completed",
                        "checks": [],
                        "output": "",
                        "updated": job.updated,
                    }
                    for test in job.tests
                ],
            )
            self._add(
                connection,
                outbox,
                [
                    # As they are kept for long: without their texts.
                    {"key": key, "topic": topic, "body": {}, "created": now, "announced": now}
                    for key, topic in job.keys.items()
                ],
            )
            if job.withdrawn is not None:
                self._withdraw(connection, job, job.withdrawn)

    def _has_no_run(self, connection: sa.Connection, job: RecoveredJob) -> bool:
        """Add the job or set its state; return False if it has runs, whose record stays."""
        name, disk = job.image.job, job.disk
        shown = {"state": job.state, "step": job.state, "error": job.error}
        connection.execute(
            self._store.insert(jobs)
            .values(
                job=name,
                image=job.image.name,
                **image_columns(job.image),
                run=NO_RUN,
                # The next run is not the first: it looks for what was made before.
                tries=1,
                created=job.created,
                updated=job.updated,
                disk_sha256=disk.sha256 if disk else None,
                disk_length=disk.length if disk else None,
                **shown,
            )
            .on_conflict_do_nothing()
        )
        changed = connection.execute(
            sa.update(jobs).where(jobs.c.job == name, jobs.c.run == NO_RUN).values(**shown)
        )
        return bool(changed.rowcount)

    def _set_region(
        self, connection: sa.Connection, job: str, region: str, error: str | None
    ) -> None:
        shown = {
            "step": FAILED if error else PUBLIC,
            "detail": "",
            "error": error,
            "updated": time.time(),
        }
        connection.execute(
            self._store.insert(regions)
            .values(job=job, region=region, **shown)
            .on_conflict_do_update(index_elements=["job", "region"], set_=shown)
        )

    def _withdraw(self, connection: sa.Connection, job: RecoveredJob, at: float) -> None:
        """Record a withdrawal, unless it is recorded, and what is left to do of it."""
        name = job.image.job
        known = connection.execute(
            sa.select(withdrawals).where(
                withdrawals.c.job == name,
                withdrawals.c.at == at,
                withdrawals.c.restored_at.is_(None),
            )
        ).first()
        by = known.by if known else _UNKNOWN_PERSON
        why = {
            "reason": known.reason if known else _UNKNOWN_REASON,
            "replacement": known.replacement if known else None,
        }
        values = {"at": at, "by": by, **why, "restored_at": None, "restored_by": None}
        connection.execute(
            self._store.insert(withdrawals)
            .values(job=name, **values)
            .on_conflict_do_update(index_elements=["job"], set_=values)
        )
        for row in (*job.hidden, *job.amis):
            if row.state in (rows.WITHDRAWN, rows.WITHDRAWING):
                connection.execute(
                    sa.update(amis)
                    .where(amis.c.ami == row.ami, amis.c.region == row.region)
                    .values(
                        state=row.state,
                        public=row.public,
                        changed_by=by,
                        changed_at=at,
                        **why,
                    )
                )
        for region in sorted(job.to_withdraw):
            change = {"what": "withdraw", "at": at, "tries": 0, "due": at, "error": None}
            connection.execute(
                self._store.insert(changes)
                .values(job=name, region=region, **change)
                .on_conflict_do_update(index_elements=["job", "region"], set_=change)
            )

    def _add(
        self, connection: sa.Connection, table: sa.Table, values: Iterable[dict[str, Any]]
    ) -> None:
        if listed := list(values):
            connection.execute(self._store.insert(table).on_conflict_do_nothing(), listed)
