"""List what carries the site's tag in one region, and who may be using it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from botocore.exceptions import ClientError

from fedimg.aws import amis, tags
from fedimg.aws.bundle import listing
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import code, explained
from fedimg.aws.client.types import EC2Client, Filter
from fedimg.aws.resources import (
    BUNDLE,
    IMAGE,
    INSTANCE,
    KEY_PAIR,
    SECURITY_GROUP,
    SNAPSHOT,
    VOLUME,
    Leftover,
    Standing,
    standing_of,
)

#: EC2's limit on the values of one filter.
_FILTER_VALUES = 200


def take(
    clients: Clients,
    site: str,
    region: str,
    job: str | None,
    resource_types: Collection[str],
    recorded: Iterable[Leftover],
    published: Collection[str],
    bundles: Mapping[str, Mapping[str, Any]],
) -> list[tuple[Standing, Leftover]]:
    """Return the resources of a job, or of the whole site, of some types, with their standing.

    `recorded` are AMIs that jobs recorded, `published` the ids of what is or may have been public,
    `bundles` the bundles of the region by id. Raises EC2ServiceException.
    """
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


def bundles(
    clients: Clients, bucket: str, site: str, region: str, job: str
) -> dict[str, dict[str, Any]]:
    """Return the bundles of a job, or of the whole site, by id. Raises EC2ServiceException."""
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
        standing = standing_of(image["ImageId"], image, published)
        if standing is not Standing.LEFT:
            for used in amis.snapshots_of(image):
                if users.get(used) is not Standing.PUBLIC:
                    users[used] = standing
        yield described(IMAGE, image["ImageId"], image, "CreationDate", standing)
    for snapshot in pages(SNAPSHOT, "describe_snapshots", "Snapshots", OwnerIds=["self"]):
        id = snapshot["SnapshotId"]
        standing = users.get(id) or standing_of(id, snapshot, published)
        yield described(SNAPSHOT, id, snapshot, "StartTime", standing)
    for id, bundle in bundles.items():
        yield described(BUNDLE, id, bundle, "", users.get(id) or standing_of(id, bundle, published))
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
            standing = standing_of(id, image, published)
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
