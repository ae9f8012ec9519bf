"""Remove the resources of jobs that were never public, each after those that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fedimg.aws import ami_options, amis
from fedimg.aws.bundle import place
from fedimg.aws.bundle.objects import BundleStore
from fedimg.aws.client import retrying
from fedimg.aws.client.already_gone import already_gone
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import code, explained
from fedimg.aws.client.types import EC2Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.resources import (
    BUNDLE,
    IMAGE,
    INSTANCE,
    KEY_PAIR,
    RESOURCE_TYPES,
    SNAPSHOT,
    VOLUME,
    Leftover,
    Standing,
    standing_of,
)
from fedimg.exceptions import EC2ServiceException

#: The error codes for a resource that is in use, or still being created.
_NOT_YET = {"DependencyViolation", "VolumeInUse", "InvalidSnapshot.InUse", "IncorrectState"}
#: Regions in which resources are removed at the same time.
_AT_ONCE = 16


def remove(
    clients: Clients,
    waiter: Waiter,
    leftovers: Iterable[Leftover],
    *,
    limit: float,
    removed: Callable[[Leftover], None] = lambda item: None,
    once_public: bool = False,
) -> None:
    """Remove leftovers, the regions in parallel, dependent resources first.

    `removed` is called for each. An AMI that is public stays, and so does one that is marked as
    having been public, unless `once_public` says that a person wants it removed. Raises
    EC2ServiceException for the first that could not be removed within `limit` seconds, after all
    the others have been tried.
    """
    regions: dict[str, list[Leftover]] = {}
    for item in leftovers:
        regions.setdefault(item.region, []).append(item)

    def remove_in(region: str) -> None:
        items = sorted(regions[region], key=lambda item: RESOURCE_TYPES.index(item.resource_type))
        problems: list[EC2ServiceException] = []
        for item in items:
            try:
                with explained(
                    f"removing {item.resource_type} {item.id}",
                    image=item.name,
                    region=region,
                    step="clean-up",
                    service="S3" if item.resource_type == BUNDLE else "EC2",
                ):
                    waiter.until(
                        partial(_gone, clients, item, once_public),
                        what=f"{item.resource_type} {item.id} in {region} to be removed",
                        # After a failure, dependent resources cannot be removed either.
                        limit=0 if problems else limit,
                    )
            except EC2ServiceException as error:
                problems.append(error)
            else:
                removed(item)
        if problems:
            raise problems[0]

    if regions:
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            futures = [pool.submit(remove_in, region) for region in regions]
        for future in futures:
            future.result()


def _gone(clients: Clients, item: Leftover, once_public: bool) -> bool | None:
    """Request the removal; return None while another resource has to be removed first."""
    ec2 = clients.ec2(item.region)
    if item.resource_type == BUNDLE:
        # S3 deletes the parts of an AMI that still exists.
        if amis.made_from(ec2, item.id):
            return None
        # Whoever polls this retries.
        s3 = retrying.s3(clients, item.region, None)
        BundleStore(s3, place.at(item.id, "")).delete()
        return True
    try:
        if item.resource_type == INSTANCE:
            return _instance_gone(ec2, item.id)
        if item.resource_type == IMAGE:
            _check_still_private(ec2, item, once_public)
            if once_public:
                # A person names it by its id, and fedimg itself may have protected it.
                ami_options.deregister_protected(ec2, item.id)
            else:
                ec2.deregister_image(ImageId=item.id)
        elif item.resource_type == SNAPSHOT:
            ec2.delete_snapshot(SnapshotId=item.id)
        elif item.resource_type == VOLUME:
            ec2.delete_volume(VolumeId=item.id)
        elif item.resource_type == KEY_PAIR:
            ec2.delete_key_pair(KeyName=item.id)
        else:
            ec2.delete_security_group(GroupId=item.id)
    except Exception as error:
        if already_gone(ec2, item.id, error):
            return True
        if code(error) in _NOT_YET:
            return None
        raise
    return True


def _instance_gone(ec2: EC2Client, instance: str) -> bool | None:
    terminating = ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"]
    return True if terminating[0]["CurrentState"]["Name"] == "terminated" else None


def _check_still_private(ec2: EC2Client, item: Leftover, once_public: bool) -> None:
    # A person or another run may have made it public since the survey.
    for image in ec2.describe_images(ImageIds=[item.id], IncludeDisabled=True)["Images"]:
        standing = standing_of(item.id, image, ())
        if standing is Standing.PUBLIC or (standing is Standing.ONCE_PUBLIC and not once_public):
            raise EC2ServiceException(
                f"AMI {item.id} became public after the search for leftovers; it is not removed",
                region=item.region,
                step="clean-up",
            )
