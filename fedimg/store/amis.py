"""Records the AMIs that fedimg made, private and public, and every id that was ever offered."""

from __future__ import annotations

import time
from collections.abc import Collection

import sqlalchemy as sa

from fedimg.images import AMI, RawImage
from fedimg.store.database import Database
from fedimg.store.rows import AMIRow
from fedimg.store.tables import amis as _amis
from fedimg.store.tables import offered as _offered


class AMIs(Database):
    """The AMIs that jobs made and that were not removed again."""

    def record_ami(self, image: RawImage, ami: AMI) -> None:
        """Record an AMI that was registered; it is private."""
        row = AMIRow(
            image=image.name,
            job=image.job,
            region=ami.region,
            ami=ami.id,
            name=ami.name,
            architecture=image.architecture,
            virt_type=ami.type.virtualization,
            volume_type=ami.type.volume_type,
            snapshot=ami.snapshot,
            public=False,
        )
        self.write(self.insert(_amis).values(**vars(row)).on_conflict_do_nothing())

    def publish_ami(self, ami: AMI) -> None:
        """Record that an AMI is public."""
        self.write(
            sa.update(_amis)
            .where(_amis.c.ami == ami.id, _amis.c.region == ami.region)
            .values(public=True)
        )

    def offer(self, job: str, region: str, ids: Collection[str]) -> set[str]:
        """Record that AMIs and a snapshot of a job are about to become public.

        Return the ids that were not recorded as public or offered before.
        """
        new = set(ids) - self.ever_public(job)
        now = time.time()
        if new:
            rows = [{"id": id, "region": region, "job": job, "at": now} for id in sorted(new)]
            self.write(self.insert(_offered).values(rows).on_conflict_do_nothing())
        return new

    def unmark(self, region: str, ids: Collection[str]) -> None:
        """Record that AMIs and snapshots of a region did not become public, or were removed."""
        self.write(
            sa.delete(_offered).where(_offered.c.region == region, _offered.c.id.in_(list(ids)))
        )

    def ever_public(self, job: str | None = None) -> set[str]:
        """Return the ids of AMIs and snapshots, of one job or of all, that are or were public.

        An id that was about to become public when a worker died counts as public.
        """
        public = sa.select(_amis.c.ami, _amis.c.snapshot).where(_amis.c.public)
        offered = sa.select(_offered.c.id)
        if job is not None:
            public = public.where(_amis.c.job == job)
            offered = offered.where(_offered.c.job == job)
        with self.engine.connect() as connection:
            ids = {id for row in connection.execute(public) for id in row}
            return ids | set(connection.execute(offered).scalars())

    def forget_ami(self, ami: str, region: str) -> None:
        """Delete the record of an AMI that was removed from EC2."""
        with self.engine.begin() as connection:
            connection.execute(sa.delete(_amis).where(_amis.c.ami == ami, _amis.c.region == region))
        self.unmark(region, [ami])

    def amis(self) -> list[AMIRow]:
        """Return every recorded AMI, ordered by image, region and name."""
        order = (_amis.c.image, _amis.c.region, _amis.c.name)
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(_amis).order_by(*order)).mappings().all()
        return [AMIRow(**row) for row in rows]
