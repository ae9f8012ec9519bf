"""The end of privacy: launch and volume permissions for everybody.

Whatever may become public is marked before it does: in the observer's record, and by a tag. A
clean-up goes by either, and removes nothing that anybody may have launched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from botocore.exceptions import ClientError

from fedimg.aws.client.errors import FAILURES, passing
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import NEVER, PUBLISHED
from fedimg.exceptions import Cancelled, EC2ServiceException
from fedimg.images import AMI
from fedimg.parallel import run_parallel


class Publications(Protocol):
    """Where it is noted what becomes public."""

    def publishing(self, region: str, ids: Collection[str]) -> Collection[str]:
        """Note that AMIs and a snapshot of a region are about to become public.

        Return those of which that was not noted before.
        """

    def unpublished(self, region: str, ids: Collection[str]) -> None:
        """Note that these have never become public after all."""

    def published(self, ami: AMI) -> None:
        """Note that an AMI is public, and so is its snapshot."""


def publish_all(
    ec2: Client,
    waiter: Waiter,
    snapshot: str,
    amis: Sequence[AMI],
    observer: Publications,
) -> None:
    """Make a snapshot public, then AMIs of it, all at once; `observer` is told of each.

    Where one fails, so does this, when the others have been tried. An AMI that EC2 has refused to
    publish loses its mark. Where EC2 has refused all of them, their snapshot is made private again
    and loses its mark, too: nobody can have launched anything of it.
    """
    region = amis[0].region
    ids = [snapshot, *(ami.id for ami in amis)]
    new = set(observer.publishing(region, ids))
    refused: set[str] = set()

    def publish(ami: AMI) -> None:
        try:
            publish_ami(ec2, waiter, ami)
        except Exception as error:
            if _surely_refused(error):
                refused.add(ami.id)
            raise
        observer.published(ami)

    try:
        _mark(ec2, waiter, ids, datetime.now(UTC).isoformat(timespec="seconds"))
    except Exception as error:
        if _surely_refused(error):
            observer.unpublished(region, new)
        raise
    try:
        try:
            publish_snapshot(ec2, waiter, snapshot)
        except Exception as error:
            if _surely_refused(error):
                refused.update(ami.id for ami in amis)
            raise
        run_parallel({ami.id: partial(publish, ami) for ami in amis}, len(amis))
    except Exception:
        # A mark that cannot be taken away stays: it only keeps a thing from being removed.
        with suppress(*FAILURES, EC2ServiceException, Cancelled):
            private = _still_private(ec2, refused & new)
            if snapshot in new and len(private) == len(amis):
                _make_private(ec2, waiter, snapshot)
                private.add(snapshot)
            if private:
                _mark(ec2, waiter, sorted(private), NEVER)
                observer.unpublished(region, private)
        raise


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


def _mark(ec2: Client, waiter: Waiter, ids: Sequence[str], value: str) -> None:
    waiter.settled(
        lambda: ec2.create_tags(Resources=list(ids), Tags=[{"Key": PUBLISHED, "Value": value}])
    )


def _make_private(ec2: Client, waiter: Waiter, snapshot: str) -> None:
    waiter.settled(
        lambda: ec2.modify_snapshot_attribute(
            SnapshotId=snapshot,
            Attribute="createVolumePermission",
            CreateVolumePermission={"Remove": [{"Group": "all"}]},
        )
    )


def _surely_refused(error: Exception) -> bool:
    """Whether EC2 itself has said no, so that the call has had no effect."""
    return isinstance(error, ClientError) and not passing(error)


def _still_private(ec2: Client, images: Collection[str]) -> set[str]:
    """Those of the AMIs that are not public: an earlier try may have made them so."""
    if not images:
        return set()
    wanted = {"Name": "image-id", "Values": sorted(images)}
    shown = ec2.describe_images(Owners=["self"], Filters=[wanted])["Images"]
    return set(images) - {str(image["ImageId"]) for image in shown if image["Public"]}
