"""Record the AMIs that fedimg made, with their states, and every id that was ever offered."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from fedimg.images import AMI, Disk, RawImage
from fedimg.records import as_record
from fedimg.store.database import Database
from fedimg.store.rows import (
    DELETED,
    PRIVATE,
    PUBLIC,
    RESTORING,
    SHARED,
    WITHDRAWING,
    WITHDRAWN,
    AMIRow,
)
from fedimg.store.tables import amis, jobs, offered, withdrawals
from fedimg.store.twins import TWINS, ImageWithdrawn
from fedimg.values.audience import Audience

#: The states of AMIs that a job may make public; those of a finished job are public again.
_MAY_BECOME_PUBLIC = (PRIVATE, PUBLIC, RESTORING)
#: … and those of AMIs that a job may share; a public one is in everybody's reach, and stays so.
_MAY_BE_SHARED = (PRIVATE, SHARED, RESTORING)


class OutOfReach(Exception):
    """A person or a rule took an AMI out of others' reach; the text says which state it has."""


class AMIs(Database):
    """The AMIs that jobs made.

    An AMI that was never offered is forgotten when it is removed; any other keeps its record.
    """

    def record_disk(self, job: str, disk: Disk) -> None:
        """Record the uncompressed bytes that a job wrote."""
        self.write(
            sa.update(jobs)
            .where(jobs.c.job == job)
            .values(disk_sha256=disk.sha256, disk_length=disk.length)
        )

    def disk(self, job: str) -> Disk | None:
        """Return the uncompressed bytes that a job wrote, None if no record tells them."""
        query = sa.select(jobs.c.disk_sha256, jobs.c.disk_length).where(jobs.c.job == job)
        with self.engine.connect() as connection:
            row = connection.execute(query).first()
        if row is None or row.disk_sha256 is None:
            return None
        return Disk(row.disk_sha256, int(row.disk_length))

    def record_ami(self, image: RawImage, ami: AMI, *also: sa.Insert) -> None:
        """Record an AMI that was registered; it is private. `also` is written with it."""
        disk = self.disk(image.job)
        row = AMIRow(
            image=image.name,
            job=image.job,
            region=ami.region,
            ami=ami.id,
            name=ami.name,
            architecture=image.architecture,
            virt_type=ami.type.virtualization,
            volume_type=ami.type.volume_type,
            encrypted=ami.type.encrypted,
            snapshot=ami.snapshot,
            public=False,
            source=image.source,
            build=image.build,
            checksum=image.checksum,
            disk_sha256=disk.sha256 if disk else None,
            disk_length=disk.length if disk else None,
            state=PRIVATE,
            attributes=as_record(ami.attributes) if ami.attributes else None,
            options=as_record(ami.options) if ami.options else None,
        )
        self.write(self.insert(amis).values(**vars(row)).on_conflict_do_nothing(), *also)

    def publish_ami(self, ami: AMI, *also: sa.Insert) -> bool:
        """Record that an AMI is public; return False if somebody took it out of others' reach.

        `also` is written with it, if it is public.

        Who could use it before an earlier withdrawal tells nothing any more. A withdrawal of the
        last moment finds it public, and takes it along.
        """
        withdrawn = amis.c.state.in_((WITHDRAWING, WITHDRAWN))
        may = amis.c.state.is_(None) | amis.c.state.in_(_MAY_BECOME_PUBLIC) | withdrawn
        its = (amis.c.ami == ami.id) & (amis.c.region == ami.region)

        def publish(connection: sa.Connection) -> bool:
            connection.execute(
                sa.update(amis)
                .where(its, may)
                .values(
                    public=True,
                    state=PUBLIC,
                    permissions=sa.case((withdrawn, amis.c.permissions), else_=sa.null()),
                    published_at=sa.func.coalesce(amis.c.published_at, time.time()),
                )
            )
            state = connection.execute(sa.select(amis.c.state).where(its)).scalar()
            public = state in (None, PUBLIC)
            for statement in also if public else ():
                connection.execute(statement)
            return public

        return self.together(publish, TWINS)

    def share_ami(self, ami: AMI, audience: Audience) -> bool:
        """Record that a private AMI is shared; return False if it was taken out of others' reach.

        A withdrawal of the last moment takes it along.
        """
        withdrawn = amis.c.state.in_((WITHDRAWING, WITHDRAWN))
        its = (amis.c.ami == ami.id) & (amis.c.region == ami.region)
        with self.engine.begin() as connection:
            self.lock(connection, TWINS)
            connection.execute(
                sa.update(amis)
                .where(its, amis.c.state.in_(_MAY_BE_SHARED) | withdrawn)
                .values(
                    public=False,
                    state=SHARED,
                    audience=as_record(audience),
                    permissions=sa.case((withdrawn, amis.c.permissions), else_=sa.null()),
                    shared_at=sa.func.coalesce(amis.c.shared_at, time.time()),
                )
            )
            state = connection.execute(sa.select(amis.c.state).where(its)).scalar()
        return state == SHARED

    def offer(
        self, job: str, region: str, ids: Collection[str], *, audience: bool = False
    ) -> set[str]:
        """Record that AMIs and a snapshot of a job are about to come into others' reach.

        They become public, or are shared with an `audience`. Return the ids that were not recorded
        as such or offered before. Raises ImageWithdrawn if the job's image is withdrawn, and
        OutOfReach if one of the AMIs may not be: a withdrawal that is recorded later takes them
        along. An AMI never changes from the one to the other, nor is an encrypted one public.
        """
        new = set(ids) - self.ever_public(job)
        now = time.time()
        withdrawn = sa.select(withdrawals.c.job).where(
            withdrawals.c.job == job, withdrawals.c.restored_at.is_(None)
        )
        taken = (
            sa.select(amis.c.ami, amis.c.state, amis.c.audience)
            .where(amis.c.region == region, amis.c.ami.in_(list(ids)))
            .where(_kept_from(audience=audience))
            .order_by(amis.c.ami)
        )

        def mark(connection: sa.Connection) -> set[str]:
            if row := connection.execute(taken).first():
                raise OutOfReach(
                    f"AMI {row.ami} is recorded as {row.state}{_for(row.audience)}, so that fedimg "
                    f"does not {'share' if audience else 'publish'} it"
                )
            if connection.execute(withdrawn).first():
                raise ImageWithdrawn(
                    f"the image of job {job} is withdrawn: 'fedimg restore {job}' comes first"
                )
            if new:
                rows = [{"id": id, "region": region, "job": job, "at": now} for id in sorted(new)]
                connection.execute(self.insert(offered).values(rows).on_conflict_do_nothing())
            return new

        return self.together(mark, TWINS)

    def states(self, region: str, ids: Collection[str]) -> dict[str, str]:
        """Return the states of some AMIs of a region, by id, as far as they are recorded."""
        query = sa.select(amis.c.ami, amis.c.state, amis.c.public).where(
            amis.c.region == region, amis.c.ami.in_(list(ids))
        )
        with self.engine.connect() as connection:
            return {
                row.ami: row.state or (PUBLIC if row.public else PRIVATE)
                for row in connection.execute(query)
            }

    def unmark(self, region: str, ids: Collection[str]) -> None:
        """Record that AMIs and snapshots of a region did not become public, or were removed."""
        self.write(
            sa.delete(offered).where(offered.c.region == region, offered.c.id.in_(list(ids)))
        )

    def ever_public(self, job: str | None = None) -> set[str]:
        """Return the ids of AMIs and snapshots, of one job or of all, that are or were public.

        An id that was about to become public when a worker died counts as public. So does that of
        an AMI in any state but private, as former versions recorded no offers.
        """
        public = sa.select(amis.c.ami, amis.c.snapshot).where(
            sa.or_(amis.c.public, amis.c.published_at.is_not(None), amis.c.state != PRIVATE)
        )
        ids_offered = sa.select(offered.c.id)
        if job is not None:
            public = public.where(amis.c.job == job)
            ids_offered = ids_offered.where(offered.c.job == job)
        with self.engine.connect() as connection:
            ids = {id for row in connection.execute(public) for id in row}
            return ids | set(connection.execute(ids_offered).scalars())

    def maybe_shared(self, region: str) -> set[str]:
        """Return the AMIs of a region that others may use although they are recorded as private.

        A run that was killed or refused may have shared them with a part of an audience.
        """
        query = sa.select(amis.c.ami).where(
            amis.c.region == region,
            amis.c.state == PRIVATE,
            amis.c.audience.is_(None),
            sa.exists().where(offered.c.id == amis.c.ami, offered.c.region == amis.c.region),
        )
        with self.engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def forget_ami(self, ami: str, region: str) -> None:
        """Delete the record of an AMI that was removed from EC2."""
        with self.engine.begin() as connection:
            connection.execute(sa.delete(amis).where(amis.c.ami == ami, amis.c.region == region))
        self.unmark(region, [ami])

    def amis(self, region: str | None = None, newest: int = 0) -> list[AMIRow]:
        """Return every recorded AMI that is not deleted, of one region or of all.

        They are ordered by image, region and name. With `newest` only those of as many jobs, the
        newest that have some.
        """
        return [row for row in self.all_amis(region, newest) if row.state != DELETED]

    def amis_of(self, job: str) -> list[AMIRow]:
        """Return the recorded AMIs of a job, also the deleted ones, ordered by region and name."""
        return self._read_amis(
            sa.select(amis).where(amis.c.job == job).order_by(amis.c.region, amis.c.name)
        )

    def all_amis(self, region: str | None = None, newest: int = 0) -> list[AMIRow]:
        """Return every recorded AMI of one region or of all, also the deleted ones.

        They are ordered by image, region and name. With `newest` only those of as many jobs, the
        newest that have some.
        """
        query = sa.select(amis).order_by(amis.c.image, amis.c.region, amis.c.name)
        if region is not None:
            query = query.where(amis.c.region == region)
        if newest:
            made = sa.select(amis.c.job).where(amis.c.job == jobs.c.job)
            made = made if region is None else made.where(amis.c.region == region)
            last = sa.select(jobs.c.job).where(made.exists())
            last = last.order_by(jobs.c.created.desc(), jobs.c.job.desc())
            query = query.where(amis.c.job.in_(last.limit(newest)))
        return self._read_amis(query)

    def _read_amis(self, query: sa.Select[Any]) -> list[AMIRow]:
        with self.engine.connect() as connection:
            return [
                AMIRow(**{**row, "state": row["state"] or ""})
                for row in connection.execute(query).mappings()
            ]

    def ami_regions(self) -> set[str]:
        """Return the regions of the recorded AMIs that are not deleted."""
        query = sa.select(amis.c.region).where(amis.c.state.is_distinct_from(DELETED)).distinct()
        with self.engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def count_amis(self, states: Collection[str]) -> dict[tuple[str, str, str], int]:
        """Return how many AMIs are in some states, by region, image and state."""
        key = (amis.c.region, amis.c.image, amis.c.state)
        query = sa.select(*key, sa.func.count()).where(amis.c.state.in_(states)).group_by(*key)
        with self.engine.connect() as connection:
            return {(row[0], row[1], row[2]): row[3] for row in connection.execute(query)}


def _kept_from(*, audience: bool) -> sa.ColumnElement[bool]:
    """Return the condition of AMIs that may not be shared, or may not become public."""
    if audience:
        return amis.c.state.not_in(_MAY_BE_SHARED)
    private = amis.c.encrypted | amis.c.audience.is_not(None)
    return amis.c.state.not_in(_MAY_BECOME_PUBLIC) | private


def _for(audience: object) -> str:
    return "" if audience is None else ", for its audience alone"
