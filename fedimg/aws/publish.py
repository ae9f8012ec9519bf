"""The end of privacy: launch and volume permissions for everybody."""

from __future__ import annotations

from fedimg.aws.clients import Client
from fedimg.aws.waiting import Waiter
from fedimg.images import AMI


def publish_snapshot(ec2: Client, waiter: Waiter, snapshot: str) -> None:
    """Let everybody make volumes of a snapshot; doing so twice is no error."""
    waiter.settled(
        lambda: ec2.modify_snapshot_attribute(
            SnapshotId=snapshot,
            Attribute="createVolumePermission",
            CreateVolumePermission={"Add": [{"Group": "all"}]},
        )
    )


def publish_ami(ec2: Client, waiter: Waiter, ami: AMI) -> None:
    """Let everybody launch an AMI; doing so twice is no error."""
    waiter.settled(
        lambda: ec2.modify_image_attribute(
            ImageId=ami.id,
            LaunchPermission={"Add": [{"Group": "all"}]},
        )
    )
