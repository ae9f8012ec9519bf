"""A job's snapshot in one region: found by its tags, waited for, and fit to be public."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedimg.aws.client.already_gone import already_gone
from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import Labels
from fedimg.exceptions import EC2ServiceException

ROLE = "snapshot"


class SnapshotFailed(EC2ServiceException):
    """EC2 gave a snapshot up; another try may pass."""


def find(
    ec2: Client, labels: Labels, fits: Callable[[dict[str, Any]], bool] = lambda snapshot: True
) -> str | None:
    """The job's snapshot in the client's region that fits, unless it failed."""
    found = ec2.describe_snapshots(OwnerIds=["self"], Filters=labels.filters(ROLE))["Snapshots"]
    usable = sorted(
        str(snapshot["SnapshotId"])
        for snapshot in found
        if snapshot["State"] in ("pending", "completed") and fits(snapshot)
    )
    return usable[0] if usable else None


def completed(
    ec2: Client,
    waiter: Waiter,
    snapshot: str,
    *,
    limit: float,
    polling: BatchedPolling | None = None,
) -> None:
    """Wait until a snapshot holds all of its bytes, with whoever else waits in these `polling`.

    Raises SnapshotFailed when it fails, EC2ServiceException when it takes longer than `limit`
    seconds or turns out encrypted: no AMI made from it could be public.
    """

    def judge(shown: list[dict[str, Any]]) -> bool | None:
        (state,) = shown
        if state["State"] in ("error", "recoverable"):
            raise SnapshotFailed(
                f"snapshot {snapshot} failed: {state.get('StateMessage') or 'EC2 gives no reason'}",
                later=True,
            )
        if state.get("Encrypted"):
            raise EC2ServiceException(
                f"snapshot {snapshot} is encrypted, and nothing encrypted can be public; turn off "
                "EBS encryption by default there (see 'fedimg check')"
            )
        return True if state["State"] == "completed" else None

    (polling or BatchedPolling()).snapshots.wait(
        ec2, waiter, [snapshot], judge, what=f"snapshot {snapshot} completed", limit=limit
    )


def delete(ec2: Client, snapshot: str) -> None:
    """Remove a snapshot; one that is gone already is no error."""
    try:
        ec2.delete_snapshot(SnapshotId=snapshot)
    except Exception as error:
        if not already_gone(ec2, snapshot, error):
            raise
