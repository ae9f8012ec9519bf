"""List a site's AMIs and snapshots in one region, with what decides who may use them.

Of n AMIs and m snapshots that carry the site's tag, this takes n/1000 + 2m/1000 + 2 calls, rounded
up: DescribeImages does not show whether the snapshot of a public AMI is public, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fedimg.aws import permissions, tags
from fedimg.aws.bundle.place import bundle_of, is_bundle
from fedimg.aws.client.types import EC2Client
from fedimg.parallel import run_parallel
from fedimg.values.audience import Audience, of_permissions

#: The longest page of DescribeImages and of DescribeSnapshots.
_PAGE: Any = {"PageSize": 1000}
#: EC2's limit on the values of one filter.
_FILTER_VALUES = 200
#: How many audiences are asked for at once.
_AT_ONCE = 10
UNBLOCKED = "unblocked"
#: More than half of what EC2 shows of an AMI; nobody asks for these of a recorded one. A site has a
#: hundred thousand AMIs and more.
_TEXTS = ("Tags", "Description", "ImageLocation")
#: By the location alone an instance-store AMI tells of which bundle it is.
_TEXTS_BUT_LOCATION = ("Tags", "Description")


@dataclass(frozen=True)
class Inventory:
    """The resources that EC2 shows of one region, by id.

    `image_block` and `snapshot_block` are the states of block public access; `unblocked` is off.
    """

    region: str
    images: Mapping[str, Mapping[str, Any]]
    snapshots: Mapping[str, Mapping[str, Any]]
    public_snapshots: frozenset[str]
    image_block: str
    snapshot_block: str
    #: With whom the AMIs and snapshots that were asked about are shared.
    audiences: Mapping[str, Audience] = field(default_factory=dict)


def take(
    ec2: EC2Client,
    site: str,
    region: str,
    *,
    amis: Collection[str],
    snapshots: Collection[str],
    bundles: Mapping[str, Mapping[str, Any]] | None = None,
    private: Collection[str] = (),
) -> Inventory:
    """Return the inventory of a region.

    `amis` and `snapshots` are recorded ids; those without the site's tag are looked up by id. Of
    recorded AMIs the inventory has no tags and descriptions, of recorded snapshots the id alone.
    `bundles`, as `fedimg.aws.bundle.listing` lists them, stand among the snapshots; their AMIs'
    users need no permission on them, as if they were public. `private` are the ids of AMIs and
    snapshots whose audience is asked for, by a call for each. Raises botocore's errors.
    """
    amis, bundles = set(amis), bundles or {}
    snapshots = {id for id in snapshots if not is_bundle(id)}
    tagged: Any = [{"Name": f"tag:{tags.SITE}", "Values": [site]}]
    images = {str(image["ImageId"]): _slim(image, amis) for image in _images(ec2, tagged)}
    for by_id in _by_id("image-id", amis - set(images)):
        images |= {str(image["ImageId"]): _slim(image, amis) for image in _images(ec2, by_id)}
    held = {
        id: {"SnapshotId": id} if id in snapshots else snapshot
        for snapshot in _snapshots(ec2, tagged)
        for id in [str(snapshot["SnapshotId"])]
    }
    public = {str(each["SnapshotId"]) for each in _snapshots(ec2, tagged, public=True)}
    for by_id in _by_id("snapshot-id", snapshots - set(held)):
        held |= {str(snapshot["SnapshotId"]): snapshot for snapshot in _snapshots(ec2, by_id)}
        public |= {str(each["SnapshotId"]) for each in _snapshots(ec2, by_id, public=True)}
    return Inventory(
        region,
        images,
        held | {**bundles},
        frozenset(public | set(bundles)),
        str(ec2.get_image_block_public_access_state()["ImageBlockPublicAccessState"]),
        str(ec2.get_snapshot_block_public_access_state()["State"]),
        _audiences_of(ec2, images, held, private),
    )


def look(
    ec2: EC2Client,
    region: str,
    *,
    amis: Collection[str],
    snapshots: Collection[str],
    private: Collection[str] = (),
) -> Inventory:
    """Return the inventory of some AMIs and snapshots of a region alone, by their ids.

    Block public access is not asked for. Raises botocore's errors.
    """
    images: dict[str, Mapping[str, Any]] = {}
    for by_id in _by_id("image-id", amis):
        images |= {str(image["ImageId"]): image for image in _images(ec2, by_id)}
    held: dict[str, Mapping[str, Any]] = {}
    public: set[str] = set()
    for by_id in _by_id("snapshot-id", snapshots):
        held |= {str(snapshot["SnapshotId"]): snapshot for snapshot in _snapshots(ec2, by_id)}
        public |= {str(each["SnapshotId"]) for each in _snapshots(ec2, by_id, public=True)}
    audiences = _audiences_of(ec2, images, held, private)
    return Inventory(region, images, held, frozenset(public), UNBLOCKED, UNBLOCKED, audiences)


def audiences(ec2: EC2Client, seen: Inventory, private: Collection[str]) -> dict[str, Audience]:
    """Return with whom EC2 shares some AMIs and snapshots of an inventory, by id.

    Raises botocore's errors.
    """
    return _audiences_of(ec2, seen.images, seen.snapshots, private)


def _audiences_of(
    ec2: EC2Client,
    images: Mapping[str, Mapping[str, Any]],
    snapshots: Collection[str],
    private: Collection[str],
) -> dict[str, Audience]:
    """Return with whom EC2 shares those of some AMIs and snapshots that exist, by id.

    A disabled AMI is shared with nobody.
    """

    def one(id: str) -> Audience:
        if id not in images:
            return of_permissions(permissions.volume_permissions(ec2, id))
        if images[id].get("State") != "available":
            return Audience()
        return of_permissions(permissions.launch_permissions(ec2, id))

    asked = [id for id in private if id in images or (id in snapshots and not is_bundle(id))]
    return run_parallel({id: partial(one, id) for id in sorted(asked)}, _AT_ONCE)


def _slim(image: dict[str, Any], recorded: Collection[str]) -> dict[str, Any]:
    """Return an AMI as EC2 describes it; a recorded one without its texts."""
    if image["ImageId"] not in recorded:
        return image
    texts = _TEXTS_BUT_LOCATION if bundle_of(image) else _TEXTS
    return {key: value for key, value in image.items() if key not in texts}


def image_pages(ec2: EC2Client, site: str, amis: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield the site's AMIs and some others of the account by id, as pages of EC2's answers.

    A page of a thousand is some MiB in memory. Raises botocore's errors.
    """
    left = set(amis)
    for page in _image_pages(ec2, [{"Name": f"tag:{tags.SITE}", "Values": [site]}]):
        left -= {str(image["ImageId"]) for image in page["Images"]}
        yield page
    for by_id in _by_id("image-id", left):
        yield from _image_pages(ec2, by_id)


def _by_id(name: str, ids: Collection[str]) -> Iterator[Any]:
    ordered = sorted(ids)
    for start in range(0, len(ordered), _FILTER_VALUES):
        yield [{"Name": name, "Values": ordered[start : start + _FILTER_VALUES]}]


def _images(ec2: EC2Client, filters: Any) -> Iterator[Any]:
    for page in _image_pages(ec2, filters):
        yield from page["Images"]


def _image_pages(ec2: EC2Client, filters: Any) -> Any:
    return ec2.get_paginator("describe_images").paginate(
        Owners=["self"], Filters=filters, IncludeDisabled=True, PaginationConfig=_PAGE
    )


def _snapshots(ec2: EC2Client, filters: Any, *, public: bool = False) -> Iterator[Any]:
    restorable: Any = {"RestorableByUserIds": ["all"]} if public else {}
    pages = ec2.get_paginator("describe_snapshots").paginate(
        OwnerIds=["self"], Filters=filters, PaginationConfig=_PAGE, **restorable
    )
    for page in pages:
        yield from page["Snapshots"]
