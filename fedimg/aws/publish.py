"""The end of privacy: launch and volume permissions for everybody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from fedimg.aws.clients import Client
from fedimg.aws.waiting import Waiter
from fedimg.images import AMI
from fedimg.side_by_side import side_by_side


def publish_all(
    ec2: Client,
    waiter: Waiter,
    snapshot: str,
    amis: Sequence[AMI],
    published: Callable[[AMI], object],
) -> None:
    """Make a snapshot public, then AMIs of it, all at once; `published` is told of each.

    Where one fails, so does this, when the others have been tried.
    """
    publish_snapshot(ec2, waiter, snapshot)

    def publish(ami: AMI) -> None:
        publish_ami(ec2, waiter, ami)
        published(ami)

    side_by_side({ami.id: partial(publish, ami) for ami in amis}, len(amis))


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
