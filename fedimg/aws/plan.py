"""Plan the AMIs of an image, before anything is created."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from fedimg.aws import regions
from fedimg.aws.client import retrying
from fedimg.aws.client.availability import Watch
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES
from fedimg.aws.client.types import Filter
from fedimg.aws.tags import ami_name
from fedimg.config import EC2
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMIType, Architecture, RawImage, Virtualization
from fedimg.parallel import run_parallel
from fedimg.values.audience import Audience


@dataclass(frozen=True)
class Plan:
    """The AMI types by region, the origin first.

    `tested` are the types that are booted, HVM first, by region; the origin is among the regions.
    `kernels` are the regions' PV-GRUB kernels. `left_out` says, by region, which AMIs are not
    registered there and why. Unless the plain AMIs are `public`, they are shared with the
    `audience`, as encrypted ones always are. `encrypted` are the encrypted types by region, which
    are not among `types`; `keys` are the KMS keys of these regions, and `tested_encrypted` are the
    encrypted types that are booted in the origin.
    """

    origin: str
    types: Mapping[str, Sequence[AMIType]]
    tested: Mapping[str, Sequence[AMIType]]
    kernels: Mapping[str, str]
    left_out: Mapping[str, str]
    # Plans of older versions are of public AMIs.
    public: bool = True
    audience: Audience = field(default_factory=Audience)
    encrypted: Mapping[str, Sequence[AMIType]] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    tested_encrypted: Sequence[AMIType] = ()

    def all_types(self, region: str) -> list[AMIType]:
        """Return the AMI types of a region, the encrypted ones last."""
        return [*self.types[region], *self.encrypted.get(region, ())]

    @property
    def further(self) -> list[str]:
        """Return the regions that get copies."""
        return [region for region in self.types if region != self.origin]

    def names(self, image: RawImage) -> dict[str, list[str]]:
        """Return the AMIs' names by region, unless another AMI already has one of them."""
        return {
            region: [
                ami_name(image.name, ami_type, region, 0) for ami_type in self.all_types(region)
            ]
            for region in self.types
        }


def make(
    image: RawImage,
    settings: EC2,
    clients: Clients,
    watch: Callable[[str], Watch | None] = lambda region: None,
) -> Plan:
    """Return the plan for an image, with read-only calls.

    PV needs an x86 image, and a kernel both in its region and in the origin, where it is tested. A
    further region that does not answer soon, or that its `watch` knows to be unavailable, is
    planned in full; its kernel is looked up when its AMIs are registered. Raises
    EC2ServiceException when no AMI can be registered in the origin, and botocore's errors when the
    origin does not answer.
    """
    wanted = regions.selected(retrying.briefly(clients, settings.origin), settings)
    ami_types = [
        ami_type for ami_type in settings.amis.types if _possible(ami_type, image.architecture)
    ]
    kernels = _kernels(ami_types, wanted, settings, clients, watch)
    stores = _instance_stores(ami_types, wanted, settings, clients, watch)
    testable = kernels.get(settings.origin) is not None
    possible = {
        region: [
            ami_type
            for ami_type in ami_types
            if (
                ami_type.virtualization is Virtualization.HVM
                or (testable and kernels.get(region, "") is not None)
            )
            and (not ami_type.instance_store or region in stores)
        ]
        for region in wanted
    }
    types = {
        region: [each for each in chosen if not each.encrypted]
        for region, chosen in possible.items()
    }
    if not types[settings.origin]:
        raise EC2ServiceException(
            f"none of the AMI types {', '.join(map(str, settings.amis.types))} can be registered "
            f"from an {image.architecture} image in {settings.origin}; change ec2.amis.types"
        )
    where = "this region" if testable else f"{settings.origin}, where it would be tested"
    registered = {region: chosen for region, chosen in types.items() if chosen}
    keys, encrypted = _encrypted(possible, registered, settings)
    tested = _tested(registered, settings)
    left_out = {
        region: _left_out(
            set(ami_types) - {*chosen, *encrypted.get(region, ())},
            region,
            stores,
            where,
            key=settings.encryption.key_in(region),
        )
        for region, chosen in types.items()
    }
    return Plan(
        settings.origin,
        registered,
        tested,
        {region: kernel for region, kernel in kernels.items() if kernel},
        {region: "; ".join(reasons) for region, reasons in left_out.items() if reasons},
        settings.public,
        settings.share.audience,
        encrypted,
        keys,
        _tested_encrypted(
            encrypted.get(settings.origin, ()), tested[settings.origin], settings.test.amis
        ),
    )


def _kernels(
    ami_types: Sequence[AMIType],
    wanted: Sequence[str],
    settings: EC2,
    clients: Clients,
    watch: Callable[[str], Watch | None],
) -> Mapping[str, str | None]:
    """Return the PV-GRUB kernels of the regions; none is looked up if no type needs one."""
    if all(each.virtualization is not Virtualization.PARAVIRTUAL for each in ami_types):
        return {}
    return clients.kernels.lookup(
        lambda region: retrying.briefly(clients, region, watch(region)),
        wanted,
        settings.amis.paravirtual_kernels,
        origin=settings.origin,
        at_once=settings.limits.regions,
    )


def _encrypted(
    possible: Mapping[str, Sequence[AMIType]], registered: Collection[str], settings: EC2
) -> tuple[dict[str, str], dict[str, list[AMIType]]]:
    """Return the KMS keys and the encrypted types of the regions that have both.

    Where nothing plain is registered there is no snapshot to encrypt; what cannot be tested in the
    origin is made nowhere.
    """
    encrypted = {
        region: chosen
        for region, types in possible.items()
        if region in registered and settings.encryption.key_in(region)
        if (chosen := [each for each in types if each.encrypted])
    }
    if settings.origin not in encrypted:
        return {}, {}
    return {region: settings.encryption.key_in(region) for region in encrypted}, encrypted


def _tested_encrypted(
    types: Sequence[AMIType], plain: Sequence[AMIType], wanted: str
) -> list[AMIType]:
    """Return the encrypted types that are booted: one, and one of each virtualization that no
    plain type is booted of; all if the site wants that.

    The bytes are those that the plain types have booted: what is new is EC2's use of the key.
    """
    order = list(Virtualization)
    ordered = sorted(types, key=lambda each: order.index(each.virtualization))
    if wanted == "types":
        return ordered
    covered = {each.boot_group for each in plain}
    first = {each.virtualization: each for each in reversed(ordered)}
    return [
        each
        for each in ordered
        if each is ordered[0]
        or (each is first[each.virtualization] and each.boot_group not in covered)
    ]


def _left_out(
    missing: Collection[AMIType], region: str, stores: Collection[str], where: str, *, key: str
) -> list[str]:
    """Return why some AMI types are not registered in a region with this KMS key."""
    reasons = []
    if not key and any(each.encrypted for each in missing):
        reasons.append("no encrypted AMIs: ec2.encryption names no key of this region")
        missing = [each for each in missing if not each.encrypted]
    if any(each.encrypted and each.virtualization is Virtualization.HVM for each in missing):
        reasons.append("no encrypted AMIs: there is no AMI without encryption to begin with")
        missing = [each for each in missing if not each.encrypted]
    if region not in stores and any(each.instance_store for each in missing):
        reasons.append(
            "no instance-store AMIs: EC2 does not offer the instance type that tests them, or has "
            "none that boots them"
        )
        missing = [each for each in missing if not each.instance_store]
    if missing:
        reasons.append(f"no paravirtual AMIs: EC2 has no PV-GRUB kernel in {where}")
    return reasons


def _instance_stores(
    ami_types: Sequence[AMIType],
    wanted: Sequence[str],
    settings: EC2,
    clients: Clients,
    watch: Callable[[str], Watch | None],
) -> set[str]:
    """Return the regions for which instance-store AMIs are made, if any are wanted.

    EC2 offers instance types there that boot them; in the origin, where they are tested, it offers
    the type of the tests. A region that does not answer soon is left out.
    """
    if not any(each.instance_store for each in ami_types):
        return set()
    bootable: Filter = {"Name": "supported-root-device-type", "Values": ["instance-store"]}

    def offers(region: str) -> bool:
        ec2 = retrying.briefly(clients, region, watch(region))
        try:
            shown = ec2.describe_instance_types(Filters=[bootable])["InstanceTypes"]
        except FAILURES:
            if region == settings.origin:
                raise
            return False
        names = {str(each["InstanceType"]) for each in shown}
        tested = region in (settings.origin, *settings.test.regions)
        return settings.instance_store.test_type in names if tested else bool(names)

    found = run_parallel(
        {region: partial(offers, region) for region in wanted}, settings.limits.regions
    )
    # What cannot be tested in the origin is made nowhere.
    return {region for region, offered in found.items() if offered and found[settings.origin]}


def _tested(types: Mapping[str, Sequence[AMIType]], settings: EC2) -> dict[str, list[AMIType]]:
    """Return the AMI types that are booted, by region. Raises EC2ServiceException for a region
    without AMIs.
    """
    test = settings.test
    if missing := [region for region in test.regions if region not in types]:
        raise EC2ServiceException(
            f"ec2.test.regions names {', '.join(missing)}, where no AMI is registered; correct "
            "ec2.test.regions, ec2.regions or ec2.exclude_regions"
        )
    order = list(Virtualization)
    tested: dict[str, list[AMIType]] = {}
    for region in (settings.origin, *test.regions):
        # HVM first: an image may fail PV alone, or with instance-store AMIs alone.
        ami_types = sorted(
            types[region],
            key=lambda ami_type: (ami_type.instance_store, order.index(ami_type.virtualization)),
        )
        first = {ami_type.boot_group: ami_type for ami_type in reversed(ami_types)}
        tested[region] = [
            each for each in ami_types if test.amis == "types" or each is first[each.boot_group]
        ]
    return tested


def _possible(ami_type: AMIType, architecture: Architecture) -> bool:
    """Return whether EC2 boots this type on such machines: PV, and instance-store AMIs, are for
    x86_64 alone.
    """
    ebs_hvm = ami_type.virtualization is Virtualization.HVM and not ami_type.instance_store
    return ebs_hvm or architecture is Architecture.X86_64
