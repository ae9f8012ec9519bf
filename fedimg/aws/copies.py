"""One copy of the origin's snapshot in a further region."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedimg.aws import amis, snapshots, tags
from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.errors import code
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import Labels
from fedimg.config import Limits


@dataclass(frozen=True)
class Source:
    """The snapshot that is copied, and where it is."""

    region: str
    snapshot: str

    def description(self, labels: Labels) -> str:
        """What its copies are described as, and found by."""
        return f"fedimg: copied from {self.snapshot} in {self.region}, {labels.image}"[:255]


def copied(
    ec2: Client,
    ec2_once: Client,
    waiter: Waiter,
    labels: Labels,
    source: Source,
    *,
    look_first: bool,
    doubted: Callable[[], object] = lambda: None,
    limits: Limits,
    polling: BatchedPolling | None = None,
) -> str:
    """The copy of a completed snapshot in the clients' region, when it holds all of its bytes.

    A copy that EC2 gives up is removed and made again. `doubted` is told when there may be one more
    than is returned. Raises EC2ServiceException when the last
    of `limits.attempts` fails, or one takes longer than `limits.copy_` seconds.
    """
    for attempt in range(limits.attempts):
        copy = waiter.make(
            lambda: waiter.until(
                lambda: _start(ec2_once, labels, source),
                # EC2 runs at most 20 copies into one region.
                what="a place among the region's copies",
                limit=limits.copy_,
                repeatable=False,
            ),
            lambda: _find(ec2, labels, source),
            look_first=look_first,
            doubted=doubted,
        )
        try:
            snapshots.completed(ec2, waiter, copy, limit=limits.copy_, polling=polling)
            return copy
        except snapshots.SnapshotFailed:
            snapshots.delete(ec2, copy)
            if attempt + 1 == limits.attempts:
                raise
    raise AssertionError("limits.attempts is positive")


def _find(ec2: Client, labels: Labels, source: Source) -> str | None:
    """The copy of this very snapshot, unless one that an earlier run published is there.

    Both hold tested bits; what else an earlier run may have left was perhaps never tested.
    """
    images = ec2.describe_images(
        Owners=["self"],
        Filters=[*labels.filters(), {"Name": "is-public", "Values": ["true"]}],
    )["Images"]
    published = {each for image in images for each in amis.snapshots_of(image)}
    told = source.description(labels)
    return snapshots.find(
        ec2,
        labels,
        lambda found: (
            found["SnapshotId"] in published or tags.ever_published(tags.read(found.get("Tags")))
        ),
    ) or snapshots.find(ec2, labels, lambda found: found.get("Description") == told)


def _start(ec2_once: Client, labels: Labels, source: Source) -> str | None:
    """Ask for the copy; None while the region has no place for one more.

    CopySnapshot takes no client token, so `ec2_once` leaves trying again to the waiter.
    """
    try:
        made = ec2_once.copy_snapshot(
            SourceRegion=source.region,
            SourceSnapshotId=source.snapshot,
            Description=source.description(labels),
            TagSpecifications=labels.specifications(["snapshot"], snapshots.ROLE, labels.image),
        )
    except Exception as error:
        if code(error) == "ResourceLimitExceeded":
            return None
        raise
    return str(made["SnapshotId"])
