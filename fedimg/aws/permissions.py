"""Take AMIs and snapshots out of others' reach."""

from __future__ import annotations

from fedimg.aws.client.types import EC2Client
from fedimg.aws.client.waiter import Waiter


def hide_ami(ec2: EC2Client, waiter: Waiter, ami: str) -> None:
    """Let nobody but the owner launch an AMI; doing so twice is no error."""
    waiter.settled(lambda: ec2.reset_image_attribute(ImageId=ami, Attribute="launchPermission"))


def hide_snapshot(ec2: EC2Client, waiter: Waiter, snapshot: str) -> None:
    """Let nobody but the owner use a snapshot; doing so twice is no error."""
    waiter.settled(
        lambda: ec2.reset_snapshot_attribute(
            SnapshotId=snapshot, Attribute="createVolumePermission"
        )
    )
