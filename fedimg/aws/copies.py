"""Copy the origin's snapshot to a further region."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedimg.aws import amis, snapshots, tags
from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.errors import code
from fedimg.aws.client.fresh_attempts import first_success
from fedimg.aws.client.types import EC2Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import Labels
from fedimg.config import Limits


@dataclass(frozen=True)
class Source:
    """The snapshot to copy, and its region."""

    region: str
    snapshot: str

    def description(self, labels: Labels) -> str:
        """Return the description of the snapshot's copies, by which they are found."""
        return f"fedimg: copied from {self.snapshot} in {self.region}, {labels.image}"[:255]


def copied(
    ec2: EC2Client,
    ec2_once: EC2Client,
    waiter: Waiter,
    labels: Labels,
    source: Source,
    *,
    find_first: bool,
    doubted: Callable[[], object] = lambda: None,
    limits: Limits,
    polling: BatchedPolling | None = None,
) -> str:
    """Return the id of the completed copy of a snapshot in the clients' region.

    A copy that EC2 fails is deleted and made again. `doubted` is called when there may be one copy
    more than the returned one. Raises EC2ServiceException when the last of `limits.attempts` fails,
    or one takes longer than `limits.copy_` seconds.
    """

    def attempt(_number: int) -> str:
        copy = waiter.make(
            lambda: waiter.until(
                lambda: _start(ec2_once, labels, source),
                what="one of the region's 20 concurrent snapshot copies to end",
                limit=limits.copy_,
                repeatable=False,
            ),
            lambda: _find(ec2, labels, source),
            find_first=find_first,
            doubted=doubted,
        )
        try:
            snapshots.completed(ec2, waiter, copy, limit=limits.copy_, polling=polling)
        except snapshots.SnapshotFailed:
            snapshots.delete(ec2, copy)
            raise
        return copy

    return first_success(
        attempt,
        waiter,
        attempts=limits.attempts,
        pause=limits.wait_maximum,
        new="copy",
        may_pass=lambda failure: isinstance(failure, snapshots.SnapshotFailed),
    )


def _find(ec2: EC2Client, labels: Labels, source: Source) -> str | None:
    """Return the copy of this snapshot, or preferably one that an earlier run published.

    Both hold tested data; other snapshots of an earlier run may never have been tested.
    """
    images = ec2.describe_images(
        Owners=["self"],
        Filters=[*labels.filters(), {"Name": "is-public", "Values": ["true"]}],
    )["Images"]
    published = {each for image in images for each in amis.snapshots_of(image)}
    description = source.description(labels)
    return snapshots.find(
        ec2,
        labels,
        lambda copy: (
            copy["SnapshotId"] in published or tags.ever_offered(tags.read(copy.get("Tags")))
        ),
    ) or snapshots.find(ec2, labels, lambda copy: copy.get("Description") == description)


def _start(ec2_once: EC2Client, labels: Labels, source: Source) -> str | None:
    """Request the copy; None while the region's limit of concurrent copies is reached.

    CopySnapshot takes no client token, so `ec2_once` leaves retries to the waiter.
    """
    try:
        response = ec2_once.copy_snapshot(
            SourceRegion=source.region,
            SourceSnapshotId=source.snapshot,
            Description=source.description(labels),
            TagSpecifications=labels.specifications(["snapshot"], snapshots.ROLE, labels.image),
        )
    except Exception as error:
        if code(error) == "ResourceLimitExceeded":
            return None
        raise
    return str(response["SnapshotId"])
