"""One copy of the origin's snapshot in a further region."""

from __future__ import annotations

from fedimg.aws import snapshots
from fedimg.aws.clients import Client
from fedimg.aws.refusals import code
from fedimg.aws.tags import Labels
from fedimg.aws.waiting import Waiter
from fedimg.config import Limits


def copied(
    ec2: Client,
    ec2_once: Client,
    waiter: Waiter,
    labels: Labels,
    *,
    origin: str,
    snapshot: str,
    look_first: bool,
    limits: Limits,
) -> str:
    """The copy of a completed snapshot in the clients' region, when it holds all of its bytes.

    A copy that EC2 gives up is removed and made again. Raises EC2ServiceException when the last
    of `limits.attempts` fails, or one takes longer than `limits.copy_` seconds.
    """
    for attempt in range(limits.attempts):
        copy = _start(
            ec2,
            ec2_once,
            waiter,
            labels,
            origin=origin,
            snapshot=snapshot,
            look_first=look_first,
            limit=limits.copy_,
        )
        try:
            snapshots.completed(ec2, waiter, copy, limit=limits.copy_)
            return copy
        except snapshots.SnapshotFailed:
            ec2.delete_snapshot(SnapshotId=copy)
            if attempt + 1 == limits.attempts:
                raise
    raise AssertionError("limits.attempts is positive")


def _start(
    ec2: Client,
    ec2_once: Client,
    waiter: Waiter,
    labels: Labels,
    *,
    origin: str,
    snapshot: str,
    look_first: bool,
    limit: float,
) -> str:
    # CopySnapshot takes no client token, so `ec2_once` leaves trying again to the waiter. EC2
    # runs at most 20 copies into one region; a place is waited for.

    def start() -> str | None:
        try:
            made = ec2_once.copy_snapshot(
                SourceRegion=origin,
                SourceSnapshotId=snapshot,
                Description=f"fedimg: {labels.image}, copied from {snapshot} in {origin}"[:255],
                TagSpecifications=labels.specifications(["snapshot"], snapshots.ROLE, labels.image),
            )
        except Exception as error:
            if code(error) == "ResourceLimitExceeded":
                return None
            raise
        return str(made["SnapshotId"])

    return waiter.make(
        lambda: waiter.until(start, what="a place among the region's copies", limit=limit),
        lambda: snapshots.find(ec2, labels),
        look_first=look_first,
    )
