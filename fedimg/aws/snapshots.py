"""Find a job's snapshot by its tags, wait for it, and delete it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedimg.aws.client.already_gone import already_gone
from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.types import EC2Client, Snapshot
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import Labels
from fedimg.exceptions import EC2ServiceException

ROLE = "snapshot"
#: The role of an encrypted copy, so that nobody takes it for the snapshot of plain AMIs.
ENCRYPTED_ROLE = "encrypted-snapshot"


class SnapshotFailed(EC2ServiceException):
    """EC2 failed to complete a snapshot; another try may pass."""


def find(
    ec2: EC2Client,
    labels: Labels,
    fits: Callable[[Snapshot], bool] = lambda snapshot: True,
    role: str = ROLE,
) -> str | None:
    """Return the job's first usable snapshot of a role in the client's region for which `fits` is
    true, or None.
    """
    described = ec2.describe_snapshots(OwnerIds=["self"], Filters=labels.filters(role))["Snapshots"]
    usable = sorted(
        str(snapshot["SnapshotId"])
        for snapshot in described
        if snapshot["State"] in ("pending", "completed") and fits(snapshot)
    )
    return usable[0] if usable else None


def completed(
    ec2: EC2Client,
    waiter: Waiter,
    snapshot: str,
    *,
    limit: float,
    polling: BatchedPolling | None = None,
    encrypted: bool = False,
) -> None:
    """Wait until a snapshot is complete, in the polls of `polling`.

    Raises SnapshotFailed when it fails, EC2ServiceException when it takes longer than `limit`
    seconds, or is encrypted where it should not be, since an AMI made from it could not be public.
    """

    def judge(described: list[dict[str, Any]]) -> bool | None:
        (state,) = described
        if state["State"] in ("error", "recoverable"):
            reason = str(state.get("StateMessage") or "EC2 gives no reason")
            raise SnapshotFailed(f"snapshot {snapshot} failed: {reason}", later=True)
        if state.get("Encrypted") and not encrypted:
            raise EC2ServiceException(
                f"snapshot {snapshot} is encrypted, and cannot be made public; turn off EBS "
                "encryption by default in its region ('fedimg check' names the command)"
            )
        return True if state["State"] == "completed" else None

    (polling or BatchedPolling()).snapshots.wait(
        ec2, waiter, [snapshot], judge, what=f"snapshot {snapshot} to complete", limit=limit
    )


def delete(ec2: EC2Client, snapshot: str) -> None:
    """Delete a snapshot; one that no longer exists is no error."""
    try:
        ec2.delete_snapshot(SnapshotId=snapshot)
    except Exception as error:
        if not already_gone(ec2, snapshot, error):
            raise
