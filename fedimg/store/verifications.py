"""Record the comparisons of the recorded AMIs with EC2: the last one of each region."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from fedimg.images import Attributes
from fedimg.records import as_record
from fedimg.store.store import Store
from fedimg.store.tables import amis, verified

#: How many rows one statement updates.
_AT_ONCE = 500


@dataclass(frozen=True)
class RegionVerification:
    """The last comparison of a region: its time in epoch seconds, and the differences as texts.

    With `error` the region could not be compared at `at`; the differences are those of before.
    `public_amis` of the site were public, and `quota` of the account may be; the rules of retention
    would disable `would_free` of them. None is unknown.
    """

    region: str
    at: float
    error: str | None
    differences: list[str]
    public_amis: int | None = None
    quota: float | None = None
    would_free: int | None = None


class Verifications:
    """The last comparison of each region and of each AMI."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def record_amis(
        self,
        region: str,
        at: float,
        compared: Collection[str],
        different: Mapping[str, str],
        attributes: Mapping[str, Attributes],
    ) -> None:
        """Record that AMIs of a region were compared; `different` has the texts of differences.

        `attributes` are those that the record lacks, or has otherwise.
        """
        here = amis.c.region == region
        shown = {id: as_record(each) for id, each in attributes.items()}
        with self._store.engine.begin() as connection:
            ordered = sorted(compared)
            for start in range(0, len(ordered), _AT_ONCE):
                ids = ordered[start : start + _AT_ONCE]
                connection.execute(
                    sa.update(amis)
                    .where(here, amis.c.ami.in_(ids))
                    .values(verified_at=at, difference="")
                )
            # One statement for many rows: it is compiled once.
            own = here & (amis.c.ami == sa.bindparam("id"))
            for column, values in (("difference", different), ("attributes", shown)):
                if values:
                    connection.execute(
                        sa.update(amis).where(own).values({column: sa.bindparam("value")}),
                        [{"id": id, "value": value} for id, value in sorted(values.items())],
                    )

    def record_region(
        self,
        region: str,
        at: float,
        differences: Collection[str],
        *,
        public_amis: int,
        quota: float | None,
    ) -> None:
        """Record that all of a region was compared."""
        self._set(
            region,
            at=at,
            error=None,
            differences=list(differences),
            public_amis=public_amis,
            quota=quota,
        )

    def record_failure(self, region: str, at: float, error: str) -> None:
        """Record that a region could not be compared."""
        self._set(region, at=at, error=error)

    def forget(self, regions: Collection[str]) -> None:
        """Forget the comparisons of regions that are compared no more."""
        if regions:
            self._store.write(sa.delete(verified).where(verified.c.region.in_(regions)))

    def record_would_free(self, region: str, count: int | None) -> None:
        """Record how many public AMIs of a compared region the rules of retention would disable.

        None: no rule decides about any AMI there.
        """
        self._store.write(
            sa.update(verified).where(verified.c.region == region).values(would_free=count)
        )

    def all(self) -> list[RegionVerification]:
        """Return the last comparison of each region, ordered by region."""
        with self._store.engine.connect() as connection:
            found = connection.execute(sa.select(verified).order_by(verified.c.region)).all()
        return [
            RegionVerification(
                row.region,
                row.at,
                row.error,
                list(row.differences or ()),
                row.public_amis,
                row.quota,
                row.would_free,
            )
            for row in found
        ]

    def _set(self, region: str, **values: object) -> None:
        self._store.write(
            self._store.insert(verified)
            .values(region=region, **values)
            .on_conflict_do_update(index_elements=["region"], set_=values)
        )
