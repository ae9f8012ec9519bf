"""Share private AMIs and their snapshots with an audience.

EC2 shares a snapshot with accounts alone: members of an organization or an organizational unit can
launch the AMI, for which they need no snapshot, and can neither copy it nor make volumes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from fedimg.aws import ami_options, ami_quota, permissions
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES, quota_met
from fedimg.aws.client.types import EC2Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.offering import offer_all
from fedimg.aws.public_access import UNENCRYPT
from fedimg.aws.tags import SHARED
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI
from fedimg.values.audience import Audience, of_permissions


class Shares(Protocol):
    """The record of what is shared."""

    def sharing(self, region: str, ids: Collection[str]) -> Collection[str]:
        """Record that AMIs and a snapshot of a region are about to be shared.

        Return the ids that were not recorded before. Raises EC2ServiceException if a person or a
        rule took one of them out of others' reach, or if it is public.
        """

    def unpublished(self, region: str, ids: Collection[str]) -> None:
        """Record that these have never been shared after all."""

    def shared(self, ami: AMI, audience: Audience) -> bool:
        """Record that an AMI and its snapshot are shared with an audience.

        Return False if a person or a rule took it out of others' reach meanwhile.
        """


def share_all(
    ec2: EC2Client,
    waiter: Waiter,
    snapshot: str,
    amis: Sequence[AMI],
    audience: Audience,
    observer: Shares,
    facts: Mapping[str, str],
) -> None:
    """Share a snapshot with an audience, then its AMIs in parallel, and record each in `observer`.

    `facts` are the tags that record the image on EC2; they are set before anything is shared. With
    an empty audience all of it stays private, and is recorded. What becomes of marks when EC2
    refuses is told by fedimg.aws.offering.
    """
    way = _ToAudience(ec2, waiter, audience, observer)
    offer_all(ec2, waiter, snapshot, amis, way, facts)


class _ToAudience:
    """The way to an audience."""

    tag = SHARED

    def __init__(
        self, ec2: EC2Client, waiter: Waiter, audience: Audience, observer: Shares
    ) -> None:
        self._ec2 = ec2
        self._waiter = waiter
        self._audience = audience
        self._observer = observer
        self._new: set[str] = set()
        self.unmark = observer.unpublished

    def marking(self, region: str, ids: Collection[str]) -> Collection[str]:
        new = self._observer.sharing(region, ids)
        self._new.update(new)
        return new

    def give_snapshot(self, snapshot: str) -> None:
        # An earlier run may have shared it with a larger audience.
        if snapshot not in self._new:
            remove_others_of_snapshot(self._ec2, self._waiter, snapshot, self._audience)
        users = self._audience.volume_permissions()
        permissions.share_snapshot(self._ec2, self._waiter, snapshot, users)

    def give_ami(self, ami: AMI, check: Callable[[], object]) -> None:
        # Nothing tells of a withdrawal where there is nobody to share it with.
        check()
        if ami.id not in self._new:
            remove_others(self._ec2, self._waiter, ami.id, self._audience)
        users = self._audience.launch_permissions()
        permissions.share_ami(self._ec2, self._waiter, ami.id, users, check)

    def given(self, ami: AMI) -> bool:
        if not self._observer.shared(ami, self._audience):
            return False
        ami_options.protect(self._ec2, self._waiter, ami)
        return True

    def refused(self, ami: AMI, error: Exception) -> None:
        """Raise EC2ServiceException if EC2 refuses because of the quota of AMI sharing."""
        if quota_met(error):
            raise EC2ServiceException(
                f"{too_many(self._audience, ami.region)}: EC2 refused to share AMI {ami.id}; "
                f"{REMEDY}"
            ) from error

    def out_of_reach(self, amis: Collection[str]) -> set[str]:
        return {ami for ami in amis if not permissions.launch_permissions(self._ec2, ami)}


#: The code of the quota of AMI sharing.
QUOTA = ami_quota.AMI_SHARING
#: The end of a message about the quota.
REMEDY = (
    "share with an organization or an organizational unit instead of its accounts (ec2.share), or "
    f"request a higher quota ({QUOTA}) in Service Quotas, then 'fedimg retry'"
)


def too_many(audience: Audience, region: str, quota: float | None = None) -> str:
    """Return in words that an audience is larger than the quota of a region."""
    most = "" if quota is None else f" of {quota:g}"
    return f"the audience of {audience} is more than the quota{most} of AMI sharing in {region}"


def check_region(ec2: EC2Client, clients: Clients, region: str, audience: Audience) -> None:
    """Raise EC2ServiceException when AMIs of a region cannot be shared with an audience.

    What cannot be asked is no obstacle. Plain AMIs alone are meant: where EC2 encrypts by default,
    it does so with a key that others cannot use.
    """
    try:
        encrypted = ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"]
    except FAILURES:
        encrypted = False
    if encrypted:
        raise EC2ServiceException(
            f"encryption by default is on in {region}, and what EC2 encrypts with its own key "
            f"cannot be shared: run '{UNENCRYPT} --region {region}', then 'fedimg retry'"
        )
    check_quota(clients, region, audience)


def check_quota(clients: Clients, region: str, audience: Audience) -> None:
    """Raise EC2ServiceException when an audience is larger than a region's quota."""
    quota = ami_quota.ami_sharing(clients, region) if audience else None
    if quota is not None and len(audience) > quota:
        raise EC2ServiceException(f"{too_many(audience, region, quota)}: {REMEDY}")


def remove_others(ec2: EC2Client, waiter: Waiter, ami: str, audience: Audience) -> None:
    """Let nobody launch an AMI who is not in an audience, everybody included."""
    wanted = audience.launch_permissions()
    others = [each for each in permissions.launch_permissions(ec2, ami) if each not in wanted]
    permissions.unshare_ami(ec2, waiter, ami, others)


def add_missing(ec2: EC2Client, waiter: Waiter, ami: str, audience: Audience) -> None:
    """Let all of an audience launch an AMI."""
    shown = permissions.launch_permissions(ec2, ami)
    missing = [each for each in audience.launch_permissions() if each not in shown]
    permissions.share_ami(ec2, waiter, ami, missing)


def remove_others_of_snapshot(
    ec2: EC2Client, waiter: Waiter, snapshot: str, audience: Audience
) -> None:
    """Let nobody use a snapshot who is not among the accounts of an audience."""
    wanted = audience.volume_permissions()
    others = [each for each in permissions.volume_permissions(ec2, snapshot) if each not in wanted]
    permissions.unshare_snapshot(ec2, waiter, snapshot, others)


def add_missing_of_snapshot(
    ec2: EC2Client, waiter: Waiter, snapshot: str, audience: Audience
) -> None:
    """Let all accounts of an audience use a snapshot."""
    shown = permissions.volume_permissions(ec2, snapshot)
    missing = [each for each in audience.volume_permissions() if each not in shown]
    permissions.share_snapshot(ec2, waiter, snapshot, missing)


def audience_of(ec2: EC2Client, ami: str) -> Audience:
    """Return with whom EC2 shares an AMI now. Raises botocore's errors."""
    return of_permissions(permissions.launch_permissions(ec2, ami))
