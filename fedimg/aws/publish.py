"""Make snapshots and AMIs public."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from fedimg.aws import ami_options, permissions
from fedimg.aws.client.errors import FAILURES
from fedimg.aws.client.types import EC2Client, Filter
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.offering import offer_all
from fedimg.aws.tags import PUBLISHED
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI


class Publications(Protocol):
    """The record of what becomes public."""

    def publishing(self, region: str, ids: Collection[str]) -> Collection[str]:
        """Record that AMIs and a snapshot of a region are about to become public.

        Return the ids that were not recorded before. Raises EC2ServiceException if a person or a
        rule took one of them out of others' reach.
        """

    def unpublished(self, region: str, ids: Collection[str]) -> None:
        """Record that these have never become public after all."""

    def published(self, ami: AMI) -> bool:
        """Record that an AMI and its snapshot are public.

        Return False if a person or a rule took it out of others' reach meanwhile.
        """


def publish_all(
    ec2: EC2Client,
    waiter: Waiter,
    snapshot: str,
    amis: Sequence[AMI],
    observer: Publications,
    facts: Mapping[str, str],
) -> None:
    """Make a snapshot public, then its AMIs in parallel, and record each in `observer`.

    `facts` are the tags that record the image on EC2; they are set before anything is public.
    What becomes of marks when EC2 refuses is told by fedimg.aws.offering.
    """
    offer_all(ec2, waiter, snapshot, amis, _ToEverybody(ec2, waiter, observer), facts)


class _ToEverybody:
    """The way to everybody."""

    tag = PUBLISHED

    def __init__(self, ec2: EC2Client, waiter: Waiter, observer: Publications) -> None:
        self._ec2 = ec2
        self._waiter = waiter
        self._observer = observer
        self.marking = observer.publishing
        self.unmark = observer.unpublished

    def give_snapshot(self, snapshot: str) -> None:
        publish_snapshot(self._ec2, self._waiter, snapshot)

    def give_ami(self, ami: AMI, check: Callable[[], object]) -> None:
        publish_ami(self._ec2, self._waiter, ami, check)

    def given(self, ami: AMI) -> bool:
        if not self._observer.published(ami):
            return False
        # Only what is public is protected, so that a clean-up has no protection to end.
        ami_options.protect(self._ec2, self._waiter, ami)
        return True

    def refused(self, ami: AMI, error: Exception) -> None:
        """Raise EC2ServiceException if EC2 refuses to publish an AMI because of watermarks."""
        with suppress(*FAILURES):
            if keys := ami_options.watermarks(self._ec2, ami.id):
                raise EC2ServiceException(
                    f"AMI {ami.id} has the watermark {', '.join(keys)}, and EC2 lets no AMI with "
                    "one become public; somebody has attached it: 'aws ec2 "
                    f"detach-image-watermark --image-id {ami.id} --watermark-key {keys[0]}' "
                    "removes it; then run 'fedimg retry'"
                ) from error

    def out_of_reach(self, amis: Collection[str]) -> set[str]:
        if not amis:
            return set()
        by_id: Filter = {"Name": "image-id", "Values": sorted(amis)}
        described = self._ec2.describe_images(Owners=["self"], Filters=[by_id])["Images"]
        return set(amis) - {str(image["ImageId"]) for image in described if image["Public"]}


def publish_snapshot(ec2: EC2Client, waiter: Waiter, snapshot: str) -> None:
    """Let everybody create volumes from a snapshot; doing so twice is no error.

    Of a bundle, whose id stands for a snapshot's, EC2 alone is a reader.
    """
    permissions.share_snapshot(ec2, waiter, snapshot, permissions.EVERYBODY)


def publish_ami(
    ec2: EC2Client, waiter: Waiter, ami: AMI, check: Callable[[], object] = lambda: None
) -> None:
    """Let everybody launch an AMI; doing so twice is no error, and EC2 refuses a disabled one.

    `check` is called before each try, and raises if the AMI must not become public any more.
    """
    permissions.share_ami(ec2, waiter, ami.id, permissions.EVERYBODY, check)
