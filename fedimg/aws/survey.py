"""Find the resources of the site's jobs in all regions, by their tags or by the record."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedimg.aws import region_survey
from fedimg.aws.client.clients import Clients
from fedimg.aws.resources import BUNDLE, IMAGE, OF_AMIS, RESOURCE_TYPES, Leftover, Standing
from fedimg.exceptions import EC2ServiceException

if TYPE_CHECKING:
    from fedimg.store.rows import AMIRow

#: Regions that are listed at the same time.
_AT_ONCE = 16


@dataclass(frozen=True)
class Survey:
    """The resources of a site: left over, public, and private now but public once."""

    left: list[Leftover]
    public: list[Leftover]
    once_public: list[Leftover]

    def without(self, jobs: Collection[str], kept: Collection[tuple[str, str]] = ()) -> Survey:
        """Return the survey without the resources of certain jobs, and of those `kept` in a region.

        A region's images and what they are made from are kept alone.
        """

        def others(items: list[Leftover]) -> list[Leftover]:
            return [
                item
                for item in items
                if item.job not in jobs
                and not ((item.job, item.region) in kept and item.resource_type in OF_AMIS)
            ]

        return Survey(others(self.left), others(self.public), others(self.once_public))


def recorded(amis: Iterable[AMIRow]) -> list[Leftover]:
    """Return the AMIs that jobs recorded, for `take` to look up."""
    return [Leftover(IMAGE, ami.ami, ami.region, ami.job, ami.name) for ami in amis]


def leftovers(
    clients: Clients, site: str, regions: Iterable[str], **options: Any
) -> list[Leftover]:
    """Return what `take`, with the same arguments, finds left over."""
    return take(clients, site, regions, **options).left


def take(
    clients: Clients,
    site: str,
    regions: Iterable[str],
    *,
    job: str | None = None,
    resource_types: Callable[[str], Collection[str]] = lambda region: RESOURCE_TYPES,
    spare: Collection[str] = (),
    recorded: Collection[Leftover] = (),
    published: Collection[str] = (),
    bucket: Callable[[str], str] = lambda region: "",
    unseen: Callable[[EC2ServiceException], None] | None = None,
) -> Survey:
    """Return the resources, in some regions, of one job or of all jobs of the site except `spare`.

    A public AMI is not left over, nor is a snapshot that a public AMI is made from, nor a resource
    that is or may have been public by its tag or by the ids in `published`. `resource_types`
    returns the types to list in a region; snapshots of public AMIs are recognized only where AMIs
    are listed, too. `recorded` are AMIs that jobs recorded; they are looked up by id where EC2 lost
    their tags. `bucket` returns the name of a region's bucket of bundles; without a name there are
    none. For a region that does not answer, `unseen` is called with the error and the others are
    listed all the same, and so it is where S3 alone does not; without `unseen`,
    EC2ServiceException is raised.
    """

    def list_bundles(region: str, types: Collection[str]) -> dict[str, dict[str, Any]]:
        if BUNDLE not in types:
            return {}
        try:
            return region_survey.bundles(clients, bucket(region), site, region, job or "")
        except EC2ServiceException as error:
            # What costs more, such as an instance, is not kept for S3's sake.
            if unseen is None:
                raise
            unseen(error)
            return {}

    def list_region(region: str) -> list[tuple[Standing, Leftover]]:
        types = resource_types(region)
        bundles = list_bundles(region, types)
        try:
            return region_survey.take(
                clients,
                site,
                region,
                job,
                types,
                recorded,
                published,
                bundles,
            )
        except EC2ServiceException as error:
            if unseen is None:
                raise
            unseen(error)
            return []

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        listings = list(pool.map(list_region, regions))
    by_standing: dict[Standing, list[Leftover]] = {standing: [] for standing in Standing}
    for standing, item in (each for region in listings for each in region):
        if item.job not in spare:
            by_standing[standing].append(item)
    return Survey(
        by_standing[Standing.LEFT], by_standing[Standing.PUBLIC], by_standing[Standing.ONCE_PUBLIC]
    )


def of_unknown_jobs(
    resources: Survey, jobs: Collection[str], database_created: float | None
) -> list[Leftover]:
    """Return the leftovers of jobs that are unknown to a database created at `database_created`.

    Whether such a resource was ever public cannot be decided. The result is empty where no resource
    of the site is older than the database, since jobs of later resources would be known. When the
    time of creation is unknown, since the database has had no job, every resource counts as older.
    """

    def older(item: Leftover) -> bool:
        if item.job in jobs:
            return False
        return database_created is None or (
            item.created is not None and item.created < database_created
        )

    if not any(
        older(item) for item in (*resources.left, *resources.public, *resources.once_public)
    ):
        return []
    return [
        item
        for item in resources.left
        if older(item) or (item.job not in jobs and item.created is None)
    ]
