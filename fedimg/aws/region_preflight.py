"""Check what a region needs before images can be published in it."""

from __future__ import annotations

from collections.abc import Callable

from fedimg.aws import ami_quota, encryption_keys
from fedimg.aws.ami_quota import AMI_SHARING, PUBLIC_AMIS
from fedimg.aws.bundle import preflight as bundles
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES
from fedimg.aws.client.types import EC2Client, Filter
from fedimg.aws.findings import ok, problem, unknown
from fedimg.aws.public_access import UNBLOCK_AMIS, UNBLOCK_SNAPSHOTS, UNBLOCKED, UNENCRYPT
from fedimg.config import EC2
from fedimg.diagnostics import Finding, Status
from fedimg.images import Virtualization
from fedimg.untrusted.failures import of_endpoint

# A person waits for the answer, so that a throttled call is retried only once.
_ATTEMPTS = 2


class RegionPreflight:
    """Checks the regions of an account, with read-only calls."""

    def __init__(self, clients: Clients, settings: EC2) -> None:
        self._clients = clients
        self._settings = settings
        types = settings.amis.types
        self._paravirtual = any(each.virtualization is Virtualization.PARAVIRTUAL for each in types)
        self._bundles = any(each.instance_store for each in types)
        self._encrypted = any(each.encrypted for each in types)

    def check(self, region: str) -> list[Finding]:
        """Check a region; without an answer of EC2 that is the one finding."""
        ec2 = self._ec2(region)
        try:
            ec2.describe_availability_zones()
        except FAILURES as error:
            # Without an answer, the other checks of the region would fail, too.
            hint = "enable the region, repair the route to it, or add it to ec2.exclude_regions"
            return problem("region", f"not usable: {of_endpoint(error)}", hint)
        return [
            *ok("region", "reachable"),
            *(self._publishing(ec2, region) if self._settings.public else []),
            *_state(
                "encryption by default",
                lambda: ("off", "on")[
                    ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"]
                ],
                "off",
                f"what EC2 encrypts by itself cannot be public or shared: run '{UNENCRYPT}'",
            ),
            *self._sharing(region),
            *self._kernel(region),
            *self._bucket(region),
            *self._key(region),
        ]

    def _publishing(self, ec2: EC2Client, region: str) -> list[Finding]:
        """Check what keeps AMIs of a region from becoming public."""
        return [
            *_state(
                "public AMIs",
                lambda: ec2.get_image_block_public_access_state()["ImageBlockPublicAccessState"],
                UNBLOCKED,
                f"run '{UNBLOCK_AMIS}'; it takes some minutes",
            ),
            *_state(
                "public snapshots",
                lambda: ec2.get_snapshot_block_public_access_state()["State"],
                UNBLOCKED,
                f"run '{UNBLOCK_SNAPSHOTS}'",
            ),
            *self._quota(region),
        ]

    def _sharing(self, region: str) -> list[Finding]:
        """Check that private AMIs of a region can be shared with the whole audience."""
        audience, name = self._settings.share.audience, "quota of AMI sharing"
        if not audience or (self._settings.public and not self._encrypted):
            return []
        try:
            quota = ami_quota.ask(self._clients, region, AMI_SHARING, attempts=_ATTEMPTS)
        except FAILURES as error:
            return unknown(name, error)
        if quota is None:
            return ok(name, "not told by Service Quotas; EC2 refuses when it is reached")
        text = f"{quota:g}; the audience is {audience}"
        if len(audience) <= quota:
            return ok(name, text)
        hint = (
            "share with organizations or organizational units instead of their accounts, or "
            f"request a higher quota ({AMI_SHARING}) in Service Quotas"
        )
        return problem(name, text, hint)

    def _key(self, region: str) -> list[Finding]:
        if not self._encrypted:
            return []
        settings = self._settings
        return encryption_keys.check_key(
            self._clients, settings.encryption, region, settings.share.audience
        )

    def _bucket(self, region: str) -> list[Finding]:
        """Check the bucket of a region for which instance-store AMIs are made."""
        if not self._bundles:
            return []
        bootable: Filter = {"Name": "supported-root-device-type", "Values": ["instance-store"]}
        try:
            offered = self._ec2(region).describe_instance_types(Filters=[bootable])
        except FAILURES as error:
            return unknown(bundles.BUCKET, error)
        if not offered["InstanceTypes"]:
            return ok(bundles.BUCKET, "not needed: no instance type boots instance-store AMIs")
        return bundles.check_bucket(self._clients, self._settings.instance_store, region)

    def _quota(self, region: str) -> list[Finding]:
        name, needed = "quota of public AMIs", self._settings.amis.public_types
        try:
            quota = ami_quota.ask(self._clients, region, PUBLIC_AMIS, attempts=_ATTEMPTS)
            if quota is None:
                return ok(name, "not told by Service Quotas; EC2 refuses an AMI when it is reached")
            public = self._ec2(region).describe_images(
                Owners=["self"], Filters=[{"Name": "is-public", "Values": ["true"]}]
            )["Images"]
        except FAILURES as error:
            return unknown(name, error)
        text = f"{len(public)} of {quota:g} used; each image needs up to {needed}"
        if len(public) + needed <= quota:
            return ok(name, text)
        status = Status.PROBLEM if needed > quota else Status.WARNING
        hint = f"request a higher quota ({PUBLIC_AMIS}) in Service Quotas, or deregister old AMIs"
        return [Finding(name, status, text, hint)]

    def _kernel(self, region: str) -> list[Finding]:
        if not self._paravirtual:
            return []
        name, known = "PV kernel", self._settings.amis.paravirtual_kernels
        try:
            kernel = self._clients.kernels.of(self._ec2(region), region, known)
        except FAILURES as error:
            return unknown(name, error)
        return ok(name, "known" if kernel else "none, so no PV AMIs are registered")

    def _ec2(self, region: str) -> EC2Client:
        client: EC2Client = self._clients.client("ec2", region, attempts=_ATTEMPTS)
        return client


def _state(name: str, check: Callable[[], str], wanted: str, hint: str) -> list[Finding]:
    try:
        shown = check()
    except FAILURES as error:
        return unknown(name, error)
    return ok(name, shown) if shown == wanted else problem(name, shown, hint)
