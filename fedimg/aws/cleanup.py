"""Find and remove the resources of jobs that were never public, by their tags or the record."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import ClientError

from fedimg.aws import ami_options, amis, tags
from fedimg.aws.bundle import listing, place
from fedimg.aws.bundle.objects import BundleStore
from fedimg.aws.client import retrying
from fedimg.aws.client.already_gone import already_gone
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import code, explained
from fedimg.aws.client.types import EC2Client, Filter
from fedimg.aws.client.waiter import Waiter
from fedimg.exceptions import EC2ServiceException

if TYPE_CHECKING:
    from fedimg.store.rows import AMIRow

INSTANCE = "instance"
IMAGE = "image"
SNAPSHOT = "snapshot"
#: The objects of a bundle; its id is as in `AMI.snapshot`.
BUNDLE = "bundle"
VOLUME = "volume"
SECURITY_GROUP = "security-group"
KEY_PAIR = "key-pair"
#: In the order of removal: a resource comes before those that it uses.
RESOURCE_TYPES = (INSTANCE, KEY_PAIR, IMAGE, SNAPSHOT, BUNDLE, VOLUME, SECURITY_GROUP)
#: The types of what AMIs are, and are made from.
OF_AMIS = (IMAGE, SNAPSHOT, BUNDLE)
#: The error codes for a resource that is in use, or still being created.
_NOT_YET = {"DependencyViolation", "VolumeInUse", "InvalidSnapshot.InUse", "IncorrectState"}
_AT_ONCE = 16
#: EC2's limit on the values of one filter.
_FILTER_VALUES = 200


@dataclass(frozen=True)
class Leftover:
    """A resource of this site. A key pair's id is its name.

    `created` is the time of its creation in seconds since the epoch, by EC2's clock; None where EC2
    does not report it.
    """

    resource_type: str
    id: str
    region: str
    job: str
    name: str
    created: float | None = field(default=None, compare=False)


class Standing(Enum):
    """A resource's possible users, who decide whether it may be removed."""

    #: Only the job that created it.
    LEFT = auto()
    #: Anybody: it is public.
    PUBLIC = auto()
    #: Anybody who used it while it was, or may have been, public.
    ONCE_PUBLIC = auto()


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
    """Return the AMIs that jobs recorded, for `survey` to look up."""
    return [Leftover(IMAGE, ami.ami, ami.region, ami.job, ami.name) for ami in amis]


def leftovers(
    clients: Clients, site: str, regions: Iterable[str], **options: Any
) -> list[Leftover]:
    """Return what `survey`, with the same arguments, finds left over."""
    return survey(clients, site, regions, **options).left


def survey(
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
            return _bundles(clients, bucket(region), site, region, job or "")
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
            return _in_region(
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


def remove(
    clients: Clients,
    waiter: Waiter,
    leftovers: Iterable[Leftover],
    *,
    limit: float,
    removed: Callable[[Leftover], None] = lambda item: None,
    once_public: bool = False,
) -> None:
    """Remove leftovers, the regions in parallel, dependent resources first.

    `removed` is called for each. An AMI that is public stays, and so does one that is marked as
    having been public, unless `once_public` says that a person wants it removed. Raises
    EC2ServiceException for the first that could not be removed within `limit` seconds, after all
    the others have been tried.
    """
    regions: dict[str, list[Leftover]] = {}
    for item in leftovers:
        regions.setdefault(item.region, []).append(item)

    def remove_in(region: str) -> None:
        items = sorted(regions[region], key=lambda item: RESOURCE_TYPES.index(item.resource_type))
        problems: list[EC2ServiceException] = []
        for item in items:
            try:
                with explained(
                    f"removing {item.resource_type} {item.id}",
                    image=item.name,
                    region=region,
                    step="clean-up",
                    service="S3" if item.resource_type == BUNDLE else "EC2",
                ):
                    waiter.until(
                        partial(_gone, clients, item, once_public),
                        what=f"{item.resource_type} {item.id} in {region} to be removed",
                        # After a failure, dependent resources cannot be removed either.
                        limit=0 if problems else limit,
                    )
            except EC2ServiceException as error:
                problems.append(error)
            else:
                removed(item)
        if problems:
            raise problems[0]

    if regions:
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            futures = [pool.submit(remove_in, region) for region in regions]
        for future in futures:
            future.result()


def _in_region(
    clients: Clients,
    site: str,
    region: str,
    job: str | None,
    resource_types: Collection[str],
    recorded: Iterable[Leftover],
    published: Collection[str],
    bundles: Mapping[str, Mapping[str, Any]],
) -> list[tuple[Standing, Leftover]]:
    if not resource_types:
        return []
    ec2 = clients.ec2(region)
    with explained(
        f"listing the resources of {f'job {job}' if job else f'site {site}'}",
        image="",
        region=region,
        step="clean-up",
    ):
        tagged = [
            (
                shown.standing,
                Leftover(
                    shown.resource_type,
                    shown.id,
                    region,
                    shown.tags.get(tags.JOB, ""),
                    shown.tags.get("Name", ""),
                    shown.created,
                ),
            )
            for shown in _tagged(ec2, site, job, resource_types, published, bundles)
        ]
        tagged_ids = {item.id for _, item in tagged}
        untagged = {
            item.id: item
            for item in recorded
            if item.region == region
            and item.resource_type in resource_types
            and item.id not in tagged_ids
        }
        return tagged + [
            (standing, untagged[id]) for id, standing in _untagged(ec2, list(untagged), published)
        ]


def _bundles(
    clients: Clients, bucket: str, site: str, region: str, job: str
) -> dict[str, dict[str, Any]]:
    with explained("listing bundles", image="", region=region, step="clean-up", service="S3"):
        return listing.listed(clients.client("s3", region), bucket, site, job)


@dataclass(frozen=True)
class _Described:
    """A resource as EC2 describes it."""

    resource_type: str
    id: str
    tags: dict[str, str]
    created: float | None
    standing: Standing = Standing.LEFT


def _tagged(
    ec2: EC2Client,
    site: str,
    job: str | None,
    resource_types: Collection[str],
    published: Collection[str],
    bundles: Mapping[str, Mapping[str, Any]],
) -> Iterator[_Described]:
    mark = {tags.SITE: site} | ({tags.JOB: job} if job else {})
    filters: list[Filter] = [
        {"Name": f"tag:{key}", "Values": [value]} for key, value in mark.items()
    ]

    # The stubs know each operation by its literal name.
    paginator = cast("Callable[[str], Any]", ec2.get_paginator)

    def pages(
        resource_type: str, operation: str, field: str, **options: Any
    ) -> Iterator[dict[str, Any]]:
        if resource_type not in resource_types:
            return
        for page in paginator(operation).paginate(Filters=filters, **options):
            yield from page[field]

    def described(
        resource_type: str,
        id: str,
        resource: Mapping[str, Any],
        created: str,
        standing: Standing = Standing.LEFT,
    ) -> _Described:
        return _Described(
            resource_type,
            id,
            tags.read(resource.get("Tags")),
            _seconds(resource.get(created)),
            standing,
        )

    for reservation in pages(INSTANCE, "describe_instances", "Reservations"):
        for instance in reservation["Instances"]:
            if instance["State"]["Name"] != "terminated":
                yield described(INSTANCE, instance["InstanceId"], instance, "LaunchTime")
    # The standing of snapshots and bundles by the AMIs that are made from them.
    users: dict[str, Standing] = {}
    for image in pages(IMAGE, "describe_images", "Images", Owners=["self"], IncludeDisabled=True):
        standing = _standing(image["ImageId"], image, published)
        if standing is not Standing.LEFT:
            for used in amis.snapshots_of(image):
                if users.get(used) is not Standing.PUBLIC:
                    users[used] = standing
        yield described(IMAGE, image["ImageId"], image, "CreationDate", standing)
    for snapshot in pages(SNAPSHOT, "describe_snapshots", "Snapshots", OwnerIds=["self"]):
        id = snapshot["SnapshotId"]
        standing = users.get(id) or _standing(id, snapshot, published)
        yield described(SNAPSHOT, id, snapshot, "StartTime", standing)
    for id, bundle in bundles.items():
        yield described(BUNDLE, id, bundle, "", users.get(id) or _standing(id, bundle, published))
    for volume in pages(VOLUME, "describe_volumes", "Volumes"):
        yield described(VOLUME, volume["VolumeId"], volume, "CreateTime")
    for group in pages(SECURITY_GROUP, "describe_security_groups", "SecurityGroups"):
        yield described(SECURITY_GROUP, group["GroupId"], group, "")
    # DescribeKeyPairs has no pages.
    pairs = (
        ec2.describe_key_pairs(Filters=filters)["KeyPairs"] if KEY_PAIR in resource_types else []
    )
    for pair in pairs:
        yield described(KEY_PAIR, pair["KeyName"], pair, "CreateTime")


def _standing(id: str, described: Mapping[str, Any], published: Collection[str]) -> Standing:
    """Return the standing of an AMI or a snapshot by its own attributes."""
    if described.get("Public"):
        return Standing.PUBLIC
    values = tags.read(described.get("Tags"))
    # Former versions published without a tag of it; a withdrawal's tag has the same meaning.
    once = id in published or tags.ever_offered(values) or tags.WITHDRAWN in values
    return Standing.ONCE_PUBLIC if once else Standing.LEFT


def _seconds(time: datetime | str | None) -> float | None:
    """Return EC2's time in seconds since the epoch; DescribeImages alone gives it as text."""
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    return time.timestamp() if time else None


def _untagged(
    ec2: EC2Client, images: list[str], published: Collection[str]
) -> Iterator[tuple[str, Standing]]:
    """Yield those of the AMIs that exist without tags, with their standing.

    AWS tags an AMI in RegisterImage or does not create it; another EC2 may ignore those tags. A
    private AMI with other tags belongs to somebody else, and so does one whose tags a person has
    removed, when a policy that depends on tags forbids deregistering it.
    """
    for start in range(0, len(images), _FILTER_VALUES):
        by_id: Filter = {"Name": "image-id", "Values": images[start : start + _FILTER_VALUES]}
        described = ec2.describe_images(Owners=["self"], Filters=[by_id], IncludeDisabled=True)
        for image in described["Images"]:
            id = str(image["ImageId"])
            standing = _standing(id, image, published)
            if standing is not Standing.LEFT or (
                not image.get("Tags") and _may_deregister(ec2, id)
            ):
                yield id, standing


def _may_deregister(ec2: EC2Client, image: str) -> bool:
    try:
        ec2.deregister_image(ImageId=image, DryRun=True)
    except ClientError as error:
        return code(error) != "UnauthorizedOperation"
    # An EC2 without dry runs has deregistered it now.
    return True


def _gone(clients: Clients, item: Leftover, once_public: bool) -> bool | None:
    """Request the removal; return None while another resource has to be removed first."""
    ec2 = clients.ec2(item.region)
    if item.resource_type == BUNDLE:
        # S3 deletes the parts of an AMI that still exists.
        if amis.made_from(ec2, item.id):
            return None
        # Whoever polls this retries.
        s3 = retrying.s3(clients, item.region, None)
        BundleStore(s3, place.at(item.id, "")).delete()
        return True
    try:
        if item.resource_type == INSTANCE:
            return _instance_gone(ec2, item.id)
        if item.resource_type == IMAGE:
            _check_still_private(ec2, item, once_public)
            if once_public:
                # A person names it by its id, and fedimg itself may have protected it.
                ami_options.deregister_protected(ec2, item.id)
            else:
                ec2.deregister_image(ImageId=item.id)
        elif item.resource_type == SNAPSHOT:
            ec2.delete_snapshot(SnapshotId=item.id)
        elif item.resource_type == VOLUME:
            ec2.delete_volume(VolumeId=item.id)
        elif item.resource_type == KEY_PAIR:
            ec2.delete_key_pair(KeyName=item.id)
        else:
            ec2.delete_security_group(GroupId=item.id)
    except Exception as error:
        if already_gone(ec2, item.id, error):
            return True
        if code(error) in _NOT_YET:
            return None
        raise
    return True


def _instance_gone(ec2: EC2Client, instance: str) -> bool | None:
    terminating = ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"]
    return True if terminating[0]["CurrentState"]["Name"] == "terminated" else None


def _check_still_private(ec2: EC2Client, item: Leftover, once_public: bool) -> None:
    # A person or another run may have made it public since the survey.
    for image in ec2.describe_images(ImageIds=[item.id], IncludeDisabled=True)["Images"]:
        standing = _standing(item.id, image, ())
        if standing is Standing.PUBLIC or (standing is Standing.ONCE_PUBLIC and not once_public):
            raise EC2ServiceException(
                f"AMI {item.id} became public after the search for leftovers; it is not removed",
                region=item.region,
                step="clean-up",
            )
