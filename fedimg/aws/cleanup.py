"""Everything that jobs made and that was never public: found by tag, or by note, and removed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from fedimg.aws import amis, tags
from fedimg.aws.client.already_gone import already_gone
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import code, explained
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.exceptions import EC2ServiceException

if TYPE_CHECKING:
    from fedimg.store.rows import AMIRow

INSTANCE = "instance"
IMAGE = "image"
SNAPSHOT = "snapshot"
VOLUME = "volume"
SECURITY_GROUP = "security-group"
KEY_PAIR = "key-pair"
#: What uses another goes before it.
KINDS = (INSTANCE, KEY_PAIR, IMAGE, SNAPSHOT, VOLUME, SECURITY_GROUP)
#: What EC2 says of a thing that is in use, or still being made.
_NOT_YET = {"DependencyViolation", "VolumeInUse", "InvalidSnapshot.InUse", "IncorrectState"}
_AT_ONCE = 16
#: EC2's most values of a filter.
_FILTER_VALUES = 200


@dataclass(frozen=True)
class Leftover:
    """A resource of this site. A key pair's id is its name.

    `created` is when it was made, in seconds since the epoch, by EC2's clock, where EC2 tells.
    """

    kind: str
    id: str
    region: str
    job: str
    name: str
    created: float | None = field(default=None, compare=False)


class Standing(Enum):
    """Who may be using a resource."""

    #: Nobody but the job that made it.
    LEFT = auto()
    #: Anybody: it is public.
    PUBLIC = auto()
    #: Whoever used it while it was public, or may have been.
    ONCE_PUBLIC = auto()


@dataclass(frozen=True)
class Survey:
    """What a site has: what is left over, what is published, and what once was and is private."""

    left: list[Leftover]
    public: list[Leftover]
    once_public: list[Leftover]

    def without(self, jobs: Collection[str]) -> Survey:
        """The same less what is of certain jobs."""

        def others(items: list[Leftover]) -> list[Leftover]:
            return [item for item in items if item.job not in jobs]

        return Survey(others(self.left), others(self.public), others(self.once_public))


def recorded(amis: Iterable[AMIRow]) -> list[Leftover]:
    """AMIs that jobs noted, for `survey` to look for."""
    return [Leftover(IMAGE, ami.ami, ami.region, ami.job, ami.name) for ami in amis]


def leftovers(
    clients: Clients, site: str, regions: Iterable[str], **options: Any
) -> list[Leftover]:
    """What `survey`, with the same arguments, finds left over."""
    return survey(clients, site, regions, **options).left


def survey(
    clients: Clients,
    site: str,
    regions: Iterable[str],
    *,
    job: str | None = None,
    kinds: Callable[[str], Collection[str]] = lambda region: KINDS,
    spare: Collection[str] = (),
    recorded: Collection[Leftover] = (),
    published: Collection[str] = (),
    unseen: Callable[[EC2ServiceException], None] | None = None,
) -> Survey:
    """What there is, in some regions, of one job, or of every job of the site but the `spare` ones.

    A public AMI is published, and so is a snapshot that a public AMI is made from: neither is
    left over, whatever the rest. Nor is what was once public, or may have been, by its tag or, as
    `published` are the ids of such things, by the record. `kinds` names what a region may hold; the
    snapshots of public AMIs are told from others only where AMIs are among it. `recorded` are AMIs
    that jobs noted, and are looked for by their ids where EC2 keeps no tags of them. For a region
    that does not answer `unseen` is told why, and the others are looked at all the same; without it
    EC2ServiceException is raised.
    """

    def look(region: str) -> list[tuple[Standing, Leftover]]:
        try:
            return _in_region(clients, site, region, job, kinds(region), recorded, published)
        except EC2ServiceException as error:
            if unseen is None:
                raise
            unseen(error)
            return []

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        looks = list(pool.map(look, regions))
    found: dict[Standing, list[Leftover]] = {standing: [] for standing in Standing}
    for standing, item in (each for region in looks for each in region):
        if item.job not in spare:
            found[standing].append(item)
    return Survey(found[Standing.LEFT], found[Standing.PUBLIC], found[Standing.ONCE_PUBLIC])


def of_unknown_jobs(found: Survey, jobs: Collection[str], made: float | None) -> list[Leftover]:
    """What is left over of jobs that a database which was `made` then is too young to know.

    Whether that was ever public nobody can tell. It is nothing where no thing of the site is older
    than the database: the others' jobs came after it. Where nobody knows when the database was
    made, as it has had no job, everything is older.
    """

    def older(item: Leftover) -> bool:
        if item.job in jobs:
            return False
        return made is None or (item.created is not None and item.created < made)

    if not any(older(item) for item in (*found.left, *found.public, *found.once_public)):
        return []
    return [
        item
        for item in found.left
        if older(item) or (item.job not in jobs and item.created is None)
    ]


def remove(
    clients: Clients,
    waiter: Waiter,
    found: Iterable[Leftover],
    *,
    limit: float,
    removed: Callable[[Leftover], None] = lambda item: None,
    once_public: bool = False,
) -> None:
    """Remove leftovers, region by region side by side, what uses another first.

    `removed` is told of each as it goes. An AMI that is public stays, and so does one that is
    marked as having been, unless `once_public` says that a person wants it gone. Raises
    EC2ServiceException for the first that could not be removed within `limit` seconds, after all
    the others have had their turn.
    """
    regions: dict[str, list[Leftover]] = {}
    for item in found:
        regions.setdefault(item.region, []).append(item)

    def empty(region: str) -> None:
        items = sorted(regions[region], key=lambda item: KINDS.index(item.kind))
        problems: list[EC2ServiceException] = []
        for item in items:
            try:
                with explained(
                    f"removing {item.kind} {item.id}",
                    image=item.name,
                    region=region,
                    step="clean-up",
                ):
                    waiter.until(
                        partial(_gone, clients.ec2(region), item, once_public),
                        what=f"{item.kind} {item.id} in {region} to be removed",
                        # What hangs on something that stays would be waited for in vain.
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
            futures = [pool.submit(empty, region) for region in regions]
        for future in futures:
            future.result()


def _in_region(
    clients: Clients,
    site: str,
    region: str,
    job: str | None,
    kinds: Collection[str],
    recorded: Iterable[Leftover],
    published: Collection[str],
) -> list[tuple[Standing, Leftover]]:
    if not kinds:
        return []
    ec2 = clients.ec2(region)
    with explained(
        f"listing the resources of {f'job {job}' if job else f'site {site}'}",
        image="",
        region=region,
        step="clean-up",
    ):
        found = [
            (
                shown.standing,
                Leftover(
                    shown.kind,
                    shown.id,
                    region,
                    shown.tags.get(tags.JOB, ""),
                    shown.tags.get("Name", ""),
                    shown.created,
                ),
            )
            for shown in _tagged(ec2, site, job, kinds, published)
        ]
        listed = {item.id for _, item in found}
        missed = {
            item.id: item
            for item in recorded
            if item.region == region and item.kind in kinds and item.id not in listed
        }
        return found + [
            (standing, missed[id]) for id, standing in _untagged(ec2, list(missed), published)
        ]


@dataclass(frozen=True)
class _Shown:
    """A resource as EC2 describes it."""

    kind: str
    id: str
    tags: dict[str, str]
    created: float | None
    standing: Standing = Standing.LEFT


def _tagged(
    ec2: Client, site: str, job: str | None, kinds: Collection[str], published: Collection[str]
) -> Iterator[_Shown]:
    mark = {tags.SITE: site} | ({tags.JOB: job} if job else {})
    filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in mark.items()]

    def pages(kind: str, operation: str, field: str, **given: Any) -> Iterator[dict[str, Any]]:
        if kind not in kinds:
            return
        for page in ec2.get_paginator(operation).paginate(Filters=filters, **given):
            yield from page[field]

    def shown(
        kind: str, id: str, what: dict[str, Any], created: str, standing: Standing = Standing.LEFT
    ) -> _Shown:
        return _Shown(kind, id, tags.read(what.get("Tags")), _seconds(what.get(created)), standing)

    for reservation in pages(INSTANCE, "describe_instances", "Reservations"):
        for instance in reservation["Instances"]:
            if instance["State"]["Name"] != "terminated":
                yield shown(INSTANCE, instance["InstanceId"], instance, "LaunchTime")
    # Of the snapshots that AMIs are made from.
    users: dict[str, Standing] = {}
    for image in pages(IMAGE, "describe_images", "Images", Owners=["self"], IncludeDisabled=True):
        standing = _standing(image["ImageId"], image, published)
        if standing is not Standing.LEFT:
            for used in amis.snapshots_of(image):
                if users.get(used) is not Standing.PUBLIC:
                    users[used] = standing
        yield shown(IMAGE, image["ImageId"], image, "CreationDate", standing)
    for snapshot in pages(SNAPSHOT, "describe_snapshots", "Snapshots", OwnerIds=["self"]):
        id = snapshot["SnapshotId"]
        standing = users.get(id) or _standing(id, snapshot, published)
        yield shown(SNAPSHOT, id, snapshot, "StartTime", standing)
    for volume in pages(VOLUME, "describe_volumes", "Volumes"):
        yield shown(VOLUME, volume["VolumeId"], volume, "CreateTime")
    for group in pages(SECURITY_GROUP, "describe_security_groups", "SecurityGroups"):
        yield shown(SECURITY_GROUP, group["GroupId"], group, "")
    # The one list of them that EC2 does not give in pages.
    pairs = ec2.describe_key_pairs(Filters=filters) if KEY_PAIR in kinds else {"KeyPairs": []}
    for pair in pairs["KeyPairs"]:
        yield shown(KEY_PAIR, pair["KeyName"], pair, "CreateTime")


def _standing(id: str, shown: dict[str, Any], published: Collection[str]) -> Standing:
    """Of an AMI or a snapshot by itself."""
    if shown.get("Public"):
        return Standing.PUBLIC
    once = id in published or tags.ever_published(tags.read(shown.get("Tags")))
    return Standing.ONCE_PUBLIC if once else Standing.LEFT


def _seconds(told: datetime | str | None) -> float | None:
    """EC2's times are text in DescribeImages alone."""
    if isinstance(told, str):
        told = datetime.fromisoformat(told)
    return told.timestamp() if told else None


def _untagged(
    ec2: Client, images: list[str], published: Collection[str]
) -> Iterator[tuple[str, Standing]]:
    """Those of the AMIs that are there and without tags, and how they stand.

    AWS tags an AMI in RegisterImage or does not make it; another EC2 may not know of such tags.
    A private one that has tags of somebody's is somebody's, and so is one whose tags a person has
    taken away: a policy that goes by tags leaves it alone.
    """
    for start in range(0, len(images), _FILTER_VALUES):
        some = {"Name": "image-id", "Values": images[start : start + _FILTER_VALUES]}
        shown = ec2.describe_images(Owners=["self"], Filters=[some], IncludeDisabled=True)
        for each in shown["Images"]:
            id = str(each["ImageId"])
            standing = _standing(id, each, published)
            if standing is not Standing.LEFT or (not each.get("Tags") and _may_deregister(ec2, id)):
                yield id, standing


def _may_deregister(ec2: Client, image: str) -> bool:
    try:
        ec2.deregister_image(ImageId=image, DryRun=True)
    except ClientError as error:
        return code(error) != "UnauthorizedOperation"
    # By an EC2 that does not know of dry runs it is removed now.
    return True


def _gone(ec2: Client, item: Leftover, once_public: bool) -> bool | None:
    """Ask for the removal; None while something else has to go first."""
    try:
        if item.kind == INSTANCE:
            return _instance_gone(ec2, item.id)
        if item.kind == IMAGE:
            _refuse_public(ec2, item, once_public)
            ec2.deregister_image(ImageId=item.id)
        elif item.kind == SNAPSHOT:
            ec2.delete_snapshot(SnapshotId=item.id)
        elif item.kind == VOLUME:
            ec2.delete_volume(VolumeId=item.id)
        elif item.kind == KEY_PAIR:
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


def _instance_gone(ec2: Client, instance: str) -> bool | None:
    found = ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"]
    return True if found[0]["CurrentState"]["Name"] == "terminated" else None


def _refuse_public(ec2: Client, item: Leftover, once_public: bool) -> None:
    # Between the look and now a person, or another run, may have made it public; then it is no
    # leftover.
    for image in ec2.describe_images(ImageIds=[item.id])["Images"]:
        standing = _standing(item.id, image, ())
        if standing is Standing.PUBLIC or (standing is Standing.ONCE_PUBLIC and not once_public):
            raise EC2ServiceException(
                f"AMI {item.id} became public after the search for leftovers; it is not removed",
                region=item.region,
                step="clean-up",
            )
