"""Which AMIs there are, as far as fedimg made them: private ones, and public ones."""

from __future__ import annotations

import sqlalchemy as sa

from fedimg.database import Database
from fedimg.images import AMI, RawImage
from fedimg.rows import AMIRow
from fedimg.tables import amis as _amis


class AMIs(Database):
    """The AMIs that jobs made and that were not removed again."""

    def record_ami(self, image: RawImage, ami: AMI) -> None:
        """Remember an AMI that was registered; it is private."""
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
        """Remember that an AMI is public."""
        self.write(
            sa.update(_amis)
            .where(_amis.c.ami == ami.id, _amis.c.region == ami.region)
            .values(public=True)
        )

    def forget_ami(self, ami: str, region: str) -> None:
        """Remember that an AMI was removed again."""
        with self.engine.begin() as connection:
            connection.execute(sa.delete(_amis).where(_amis.c.ami == ami, _amis.c.region == region))

    def amis(self) -> list[AMIRow]:
        """Every AMI that there is, by image, region and name."""
        order = (_amis.c.image, _amis.c.region, _amis.c.name)
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(_amis).order_by(*order)).mappings().all()
        return [AMIRow(**row) for row in rows]
