"""Make snapshots and AMIs public.

Whatever may become public is marked before it does, in the `observer`'s record and by a tag. A
clean-up honours either mark, and removes nothing that anybody may have launched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from botocore.exceptions import ClientError

from fedimg.aws import ami_options
from fedimg.aws.bundle.place import is_bundle
from fedimg.aws.client.errors import FAILURES, passing
from fedimg.aws.client.types import EC2Client, Filter
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.permissions import hide_ami, hide_snapshot
from fedimg.aws.tags import NEVER, PUBLISHED, as_tags
from fedimg.exceptions import Cancelled, EC2ServiceException
from fedimg.images import AMI
from fedimg.parallel import run_parallel


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
    When one fails, its error is raised after the others have been tried. An AMI that EC2 refused to
    publish loses its mark. When EC2 refused all of them, their snapshot is made private again and
    loses its mark, too, since nobody can have launched anything from it. Of AMIs that somebody took
    out of others' reach meanwhile the snapshot goes private with the last one.
    """
    region = amis[0].region
    ids = [snapshot, *(ami.id for ami in amis)]
    new = set(observer.publishing(region, ids))
    refused: set[str] = set()
    taken_back: set[str] = set()

    def may_become_public(ami: AMI) -> None:
        try:
            observer.publishing(region, [ami.id])
        except EC2ServiceException:
            taken_back.add(ami.id)
            raise

    def publish(ami: AMI) -> None:
        try:
            # Before each try, as EC2 may have kept this step waiting for long.
            publish_ami(ec2, waiter, ami, partial(may_become_public, ami))
        except Exception as error:
            if _surely_refused(error):
                refused.add(ami.id)
                _explain_watermarks(ec2, ami, error)
            raise
        if not observer.published(ami):
            taken_back.add(ami.id)
            hide_ami(ec2, waiter, ami.id)
            raise EC2ServiceException(
                f"AMI {ami.id} was taken out of others' reach while it became public: it is "
                "private again",
                region=region,
            )
        # Only what is public is protected, so that a clean-up has no protection to end.
        ami_options.protect(ec2, waiter, ami)

    try:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        _mark(ec2, waiter, ids, {**facts, PUBLISHED: now})
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
        # A mark that cannot be removed stays; it only protects the resource from a clean-up.
        with suppress(*FAILURES, EC2ServiceException, Cancelled):
            # Whoever took the AMIs back may have hidden their snapshot before it became public.
            if taken_back and len(_still_private(ec2, [ami.id for ami in amis])) == len(amis):
                hide_snapshot(ec2, waiter, snapshot)
            private = _still_private(ec2, refused & new)
            if snapshot in new and len(private) == len(amis):
                hide_snapshot(ec2, waiter, snapshot)
                private.add(snapshot)
            if private:
                _mark(ec2, waiter, sorted(private), {PUBLISHED: NEVER})
                observer.unpublished(region, private)
        raise


def publish_snapshot(ec2: EC2Client, waiter: Waiter, snapshot: str) -> None:
    """Let everybody create volumes from a snapshot; doing so twice is no error.

    Of a bundle, whose id stands for a snapshot's, EC2 alone is a reader.
    """
    if is_bundle(snapshot):
        return
    waiter.settled(
        lambda: ec2.modify_snapshot_attribute(
            SnapshotId=snapshot,
            Attribute="createVolumePermission",
            CreateVolumePermission={"Add": [{"Group": "all"}]},
        )
    )


def publish_ami(
    ec2: EC2Client, waiter: Waiter, ami: AMI, check: Callable[[], object] = lambda: None
) -> None:
    """Let everybody launch an AMI; doing so twice is no error, and EC2 refuses a disabled one.

    `check` is called before each try, and raises if the AMI must not become public any more.
    """

    def share() -> None:
        check()
        ec2.modify_image_attribute(ImageId=ami.id, LaunchPermission={"Add": [{"Group": "all"}]})

    waiter.settled(share)


def _explain_watermarks(ec2: EC2Client, ami: AMI, error: Exception) -> None:
    """Raise EC2ServiceException if EC2 refuses to publish an AMI because of its watermarks."""
    with suppress(*FAILURES):
        if keys := ami_options.watermarks(ec2, ami.id):
            raise EC2ServiceException(
                f"AMI {ami.id} has the watermark {', '.join(keys)}, and EC2 lets no AMI with one "
                "become public; somebody has attached it: 'aws ec2 detach-image-watermark "
                f"--image-id {ami.id} --watermark-key {keys[0]}' removes it; then run 'fedimg "
                "retry'"
            ) from error


def _mark(ec2: EC2Client, waiter: Waiter, ids: Sequence[str], values: Mapping[str, str]) -> None:
    marked = [id for id in ids if not is_bundle(id)]
    if marked:
        waiter.settled(lambda: ec2.create_tags(Resources=marked, Tags=as_tags(values)))


def _surely_refused(error: Exception) -> bool:
    """Return whether EC2 itself refused the call, so that it had no effect."""
    return isinstance(error, ClientError) and not passing(error)


def _still_private(ec2: EC2Client, images: Collection[str]) -> set[str]:
    """Return those of the AMIs that are private, since an earlier try may have published some."""
    if not images:
        return set()
    by_id: Filter = {"Name": "image-id", "Values": sorted(images)}
    described = ec2.describe_images(Owners=["self"], Filters=[by_id])["Images"]
    return set(images) - {str(image["ImageId"]) for image in described if image["Public"]}
