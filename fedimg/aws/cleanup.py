"""Everything that jobs made and that is not published: found by tag, or by note, and removed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from fedimg.aws import amis, tags
from fedimg.aws.clients import Client, Clients
from fedimg.aws.gone import gone
from fedimg.aws.refusals import code, explained
from fedimg.aws.waiting import Waiter
from fedimg.exceptions import EC2ServiceException

if TYPE_CHECKING:
    from fedimg.rows import AMIRow

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
    """A resource of this site that is not published. A key pair's id is its name."""

    kind: str
    id: str
    region: str
    job: str
    name: str


def private(amis: Iterable[AMIRow]) -> list[Leftover]:
    """AMIs that jobs noted, less those that they made public: for `leftovers` to look at."""
    return [
        Leftover(IMAGE, ami.ami, ami.region, ami.job, ami.name) for ami in amis if not ami.public
    ]


def leftovers(
    clients: Clients,
    site: str,
    regions: Iterable[str],
    *,
    job: str | None = None,
    kinds: Callable[[str], Collection[str]] = lambda region: KINDS,
    spare: Collection[str] = (),
    recorded: Collection[Leftover] = (),
    unseen: Callable[[EC2ServiceException], None] | None = None,
) -> list[Leftover]:
    """What one job, or every job of the site but the `spare` ones, left in some regions.

    A public AMI is published, and so is a snapshot that a public AMI is made from: neither is
    left over, whatever the rest. `kinds` names what a region may hold; the snapshots of public
    AMIs are told from others only where AMIs are among it. `recorded` are AMIs that jobs noted,
    and are looked for by their ids where EC2 keeps no tags of them. For a region that does not
    answer `unseen` is told why, and the others are looked at all the same; without it
    EC2ServiceException is raised.
    """

    def look(region: str) -> list[Leftover]:
        try:
            return _in_region(clients, site, region, job, kinds(region), recorded)
        except EC2ServiceException as error:
            if unseen is None:
                raise
            unseen(error)
            return []

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        found = list(pool.map(look, regions))
    return [item for region in found for item in region if item.job not in spare]


def remove(
    clients: Clients,
    waiter: Waiter,
    found: Iterable[Leftover],
    *,
    limit: float,
    removed: Callable[[Leftover], None] = lambda item: None,
) -> None:
    """Remove leftovers, region by region side by side, what uses another first.

    `removed` is told of each as it goes. Raises EC2ServiceException for the first that could
    not be removed within `limit` seconds, after all the others have had their turn.
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
                        partial(_gone, clients.ec2(region), item),
                        what=f"{item.kind} {item.id} in {region} gone",
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
) -> list[Leftover]:
    ec2 = clients.ec2(region)
    with explained(
        f"looking for what is left of {job or f'site {site}'}",
        image="",
        region=region,
        step="clean-up",
    ):
        found = [
            Leftover(
                kind,
                identity,
                region,
                values.get(tags.JOB, ""),
                values.get("Name", ""),
            )
            for kind, identity, values in _unpublished(ec2, site, job, kinds)
        ]
        listed = {item.id for item in found}
        missed = {
            item.id: item
            for item in recorded
            if item.region == region and item.kind in kinds and item.id not in listed
        }
        return found + [missed[id] for id in _untagged(ec2, list(missed))]


def _unpublished(
    ec2: Client, site: str, job: str | None, kinds: Collection[str]
) -> Iterator[tuple[str, str, dict[str, str]]]:
    mark = {tags.SITE: site} | ({tags.JOB: job} if job else {})
    filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in mark.items()]

    def pages(kind: str, operation: str, field: str, **given: Any) -> Iterator[dict[str, Any]]:
        if kind not in kinds:
            return
        for page in ec2.get_paginator(operation).paginate(Filters=filters, **given):
            yield from page[field]

    for reservation in pages(INSTANCE, "describe_instances", "Reservations"):
        for instance in reservation["Instances"]:
            if instance["State"]["Name"] != "terminated":
                yield INSTANCE, instance["InstanceId"], tags.read(instance.get("Tags"))
    published: set[str] = set()
    for image in pages(IMAGE, "describe_images", "Images", Owners=["self"], IncludeDisabled=True):
        if image["Public"]:
            published |= amis.snapshots_of(image)
        else:
            yield IMAGE, image["ImageId"], tags.read(image.get("Tags"))
    for snapshot in pages(SNAPSHOT, "describe_snapshots", "Snapshots", OwnerIds=["self"]):
        if snapshot["SnapshotId"] not in published:
            yield SNAPSHOT, snapshot["SnapshotId"], tags.read(snapshot.get("Tags"))
    for volume in pages(VOLUME, "describe_volumes", "Volumes"):
        yield VOLUME, volume["VolumeId"], tags.read(volume.get("Tags"))
    for group in pages(SECURITY_GROUP, "describe_security_groups", "SecurityGroups"):
        yield SECURITY_GROUP, group["GroupId"], tags.read(group.get("Tags"))
    # The one list of them that EC2 does not give in pages.
    pairs = ec2.describe_key_pairs(Filters=filters) if KEY_PAIR in kinds else {"KeyPairs": []}
    for pair in pairs["KeyPairs"]:
        yield KEY_PAIR, pair["KeyName"], tags.read(pair.get("Tags"))


def _untagged(ec2: Client, images: list[str]) -> list[str]:
    """Those of the AMIs that are there, private, without any tag, and ours to remove.

    AWS tags an AMI in RegisterImage or does not make it; another EC2 may not know of such tags.
    One that has tags of somebody's is somebody's, and so is one whose tags a person has taken away:
    a policy that goes by tags leaves it alone.
    """
    found: list[str] = []
    for start in range(0, len(images), _FILTER_VALUES):
        some = {"Name": "image-id", "Values": images[start : start + _FILTER_VALUES]}
        shown = ec2.describe_images(Owners=["self"], Filters=[some], IncludeDisabled=True)
        found += [
            str(each["ImageId"])
            for each in shown["Images"]
            if not (each["Public"] or each.get("Tags"))
        ]
    return [image for image in found if _may_deregister(ec2, image)]


def _may_deregister(ec2: Client, image: str) -> bool:
    try:
        ec2.deregister_image(ImageId=image, DryRun=True)
    except ClientError as error:
        return code(error) != "UnauthorizedOperation"
    # By an EC2 that does not know of dry runs it is removed now.
    return True


def _gone(ec2: Client, item: Leftover) -> bool | None:
    """Ask for the removal; None while something else has to go first."""
    try:
        if item.kind == INSTANCE:
            return _instance_gone(ec2, item.id)
        if item.kind == IMAGE:
            _refuse_public(ec2, item)
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
        if gone(ec2, item.id, error):
            return True
        if code(error) in _NOT_YET:
            return None
        raise
    return True


def _instance_gone(ec2: Client, instance: str) -> bool | None:
    found = ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"]
    return True if found[0]["CurrentState"]["Name"] == "terminated" else None


def _refuse_public(ec2: Client, item: Leftover) -> None:
    # Between the look and now a person may have made it public; then it is no leftover.
    images = ec2.describe_images(ImageIds=[item.id])["Images"]
    if images and images[0]["Public"]:
        raise EC2ServiceException(
            f"AMI {item.id} has become public since it was looked for; not removed",
            region=item.region,
            step="clean-up",
        )
