"""Read what was ever published, and record which file of the catalogue tells it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields

import sqlalchemy as sa

from fedimg.images import ENCRYPTED, RawImage
from fedimg.progress import CheckResult
from fedimg.records import from_record
from fedimg.store import rows
from fedimg.store.rows import LIVE, AMIRow, BootTestRow
from fedimg.store.store import Store
from fedimg.store.tables import amis, jobs, tests, withdrawals

#: The advisory lock under which files are numbered.
_LOCK = "catalogue"
#: How many values one statement names.
_AT_ONCE = 200
#: The states that only an AMI that was public once can have; `published_at` is younger than they.
_ONCE_PUBLIC = (
    rows.PUBLIC,
    rows.WITHDRAWING,
    rows.WITHDRAWN,
    rows.RESTORING,
    rows.DISABLING,
    rows.DISABLED,
    rows.DELETING,
    rows.DELETED,
)
#: By position, as a catalogue has more than a hundred thousand of these rows.
_AMI_COLUMNS = [
    sa.func.coalesce(amis.c.state, "").label("state")
    if field.name == "state"
    else amis.c[field.name]
    for field in fields(AMIRow)
]
#: An AMI of an older version waits for the comparison that reads its attributes from EC2.
_DESCRIBED = sa.or_(amis.c.attributes.is_not(None), amis.c.verified_at.is_not(None))
#: An AMI that is for an audience alone, or for nobody; an encrypted one is never public.
_FOR_SOME = sa.or_(amis.c.audience.is_not(None), amis.c.encrypted)
#: No file names an AMI that is for an audience alone, whatever became of it.
_PUBLISHED = sa.and_(
    sa.or_(amis.c.public, amis.c.published_at.is_not(None), amis.c.state.in_(_ONCE_PUBLIC)),
    sa.not_(_FOR_SOME),
)
#: The boot checks that files tell of: a public image may have encrypted AMIs beside its own.
_TOLD = sa.and_(
    tests.c.status == "completed",
    tests.c.volume_type.not_like(f"%-{ENCRYPTED}"),
    ~sa.exists().where(amis.c.ami == tests.c.ami, amis.c.region == tests.c.region, _FOR_SOME),
)


@dataclass(frozen=True)
class PublishedJob:
    """A job of which an AMI was ever public; `published` is when its first AMI became so."""

    job: str
    image: RawImage
    disk_sha256: str | None
    disk_length: int | None
    published: float | None


@dataclass(frozen=True)
class Withdrawn:
    """When, in seconds since the epoch, and why an image was withdrawn, and what to use instead."""

    at: float
    reason: str
    replacement: str | None


class Publications:
    """The AMIs that were ever public, by their jobs."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def changed(self) -> tuple[object, ...]:
        """Return values that differ from those of before when a published AMI's record changed."""
        query = sa.select(
            sa.func.count(),
            sa.func.count(amis.c.publication),
            sa.func.count(amis.c.attributes),
            sa.func.sum(amis.c.deprecate_at),
            *(
                sa.func.max(column)
                for column in (
                    amis.c.published_at,
                    amis.c.changed_at,
                    amis.c.verified_at,
                )
            ),
            *(sa.func.sum(sa.case((amis.c.state == state, 1), else_=0)) for state in _ONCE_PUBLIC),
        ).where(_PUBLISHED)
        with self._store.engine.connect() as connection:
            return tuple(connection.execute(query).one())

    def jobs(self) -> list[PublishedJob]:
        """Return the jobs, the first published one first."""
        first = (
            sa.select(amis.c.job, sa.func.min(amis.c.published_at).label("published"))
            .where(_PUBLISHED)
            .group_by(amis.c.job)
            .subquery()
        )
        query = sa.select(
            jobs.c.job,
            jobs.c.raw_image,
            jobs.c.disk_sha256,
            jobs.c.disk_length,
            first.c.published,
        ).join(first, first.c.job == jobs.c.job)
        with self._store.engine.connect() as connection:
            found = connection.execute(query).all()
        published = [
            PublishedJob(
                row.job,
                from_record(RawImage, row.raw_image),
                row.disk_sha256,
                row.disk_length,
                row.published,
            )
            for row in found
        ]
        return sorted(published, key=lambda job: (job.published or 0.0, job.job))

    def amis(self, of: Collection[str]) -> dict[str, list[AMIRow]]:
        """Return the AMIs of some jobs that were ever public, by job, in the order of regions."""
        found: dict[str, list[AMIRow]] = {job: [] for job in of}
        order = (amis.c.region, amis.c.name)
        for some in _chunks(sorted(of)):
            query = sa.select(*_AMI_COLUMNS).where(_PUBLISHED, amis.c.job.in_(some))
            with self._store.engine.connect() as connection:
                for row in connection.execute(query.order_by(*order)):
                    found[row.job].append(AMIRow(*row))
        return found

    def boot_checks(self, of: Collection[str]) -> dict[str, list[BootTestRow]]:
        """Return the completed boot checks of some jobs' AMIs that are for everybody, by job."""
        found: dict[str, list[BootTestRow]] = {job: [] for job in of}
        for some in _chunks(sorted(of)):
            query = (
                sa.select(tests).where(tests.c.job.in_(some), _TOLD).order_by(*tests.primary_key)
            )
            with self._store.engine.connect() as connection:
                for row in connection.execute(query).mappings():
                    values = dict(row)
                    results = [from_record(CheckResult, check) for check in values.pop("checks")]
                    job = values.pop("job")
                    found[job].append(BootTestRow(checks=results, **values))
        return found

    def withdrawn(self) -> dict[str, Withdrawn]:
        """Return the jobs whose images are withdrawn, with when and why."""
        query = sa.select(
            withdrawals.c.job, withdrawals.c.at, withdrawals.c.reason, withdrawals.c.replacement
        ).where(withdrawals.c.restored_at.is_(None))
        with self._store.engine.connect() as connection:
            return {row.job: Withdrawn(*row[1:]) for row in connection.execute(query)}

    def assign(self, path: Callable[[RawImage, int], str]) -> None:
        """Record in which file each AMI's publication is, where that is not recorded yet.

        The AMIs of one source (a build or compose) share a file, which `path` names by one of its
        images and a number, from 1. While a job of the source still runs, there is no file; AMIs
        that follow later get the next number.
        """
        with self._store.engine.connect() as connection:
            if not _settled(connection):
                return
        with self._store.engine.begin() as connection:
            self._store.lock(connection, _LOCK)
            used = set(connection.execute(sa.select(amis.c.publication).distinct()).scalars())
            for of_source in _settled(connection).values():
                number = 1
                while (file := path(next(iter(of_source.values())), number)) in used:
                    number += 1
                used.add(file)
                for some in _chunks(list(of_source)):
                    connection.execute(
                        sa.update(amis)
                        .where(_PUBLISHED, _DESCRIBED, amis.c.publication.is_(None))
                        .where(amis.c.job.in_(some))
                        .values(publication=file)
                    )


def _settled(connection: sa.Connection) -> dict[str, dict[str, RawImage]]:
    """Return by source the jobs with AMIs that are in no file, where no job of the source runs."""
    without = sa.select(amis.c.job).where(_PUBLISHED, _DESCRIBED, amis.c.publication.is_(None))
    waiting = set(connection.execute(without.distinct()).scalars())
    if not waiting:
        return {}
    query = sa.select(jobs.c.job, jobs.c.raw_image, jobs.c.state).where(
        sa.or_(jobs.c.job.in_(without), jobs.c.state.in_(LIVE))
    )
    found = [
        (row.job, from_record(RawImage, row.raw_image), row.state)
        for row in connection.execute(query.order_by(jobs.c.job))
    ]
    running = {image.source for _, image, state in found if state in LIVE}
    settled: dict[str, dict[str, RawImage]] = {}
    for job, image, _ in found:
        if job in waiting and image.source not in running:
            settled.setdefault(image.source, {})[job] = image
    return settled


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]
