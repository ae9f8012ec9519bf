"""What is made of an image, and where: decided before anything is touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedimg.aws import regions
from fedimg.aws.client import retrying
from fedimg.aws.client.availability import Watch
from fedimg.aws.client.clients import Clients
from fedimg.aws.tags import ami_name
from fedimg.config import EC2
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMIType, Architecture, RawImage, Virtualization


@dataclass(frozen=True)
class Plan:
    """Region → AMI types, the origin first.

    `tested` are the regions where AMIs are booted, the origin among them, and of which types, HVM
    first; `kernels` are the regions' PV-GRUB kernels; `left_out` tells, a region, what cannot be
    made there and why.
    """

    origin: str
    types: Mapping[str, Sequence[AMIType]]
    tested: Mapping[str, Sequence[AMIType]]
    kernels: Mapping[str, str]
    left_out: Mapping[str, str]

    @property
    def further(self) -> list[str]:
        """The regions that get copies."""
        return [region for region in self.types if region != self.origin]

    def names(self, image: RawImage) -> dict[str, list[str]]:
        """The names that the AMIs get, a region, unless another AMI has one already."""
        return {
            region: [ami_name(image.name, kind, region, 0) for kind in kinds]
            for region, kinds in self.types.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the queue."""
        return {**vars(self), "types": _texts(self.types), "tested": _texts(self.tested)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Plan:
        """The plan that `to_json` wrote down."""
        parsed = {name: _parsed(values[name]) for name in ("types", "tested")}
        return cls(**{**values, **parsed})


def make(
    image: RawImage,
    settings: EC2,
    clients: Clients,
    watch: Callable[[str], Watch | None] = lambda region: None,
) -> Plan:
    """The plan for an image; nothing is touched.

    PV needs an x86 image and a kernel, in its region and in the origin, where it is tested. A
    further region that does not answer soon, or is known by its `watch` to be away and is not
    asked, is planned in full: its kernel is asked for again when its turn comes. Raises
    EC2ServiceException when nothing can be made in the origin, and botocore's errors when that
    cannot be asked.
    """
    wanted = regions.wanted(retrying.briefly(clients, settings.origin), settings)
    kinds = [kind for kind in settings.amis.types if _possible(kind, image.architecture)]
    pv = any(kind.virtualization is Virtualization.PARAVIRTUAL for kind in kinds)
    found = (
        clients.kernels.found(
            lambda region: retrying.briefly(clients, region, watch(region)),
            wanted,
            settings.amis.paravirtual_kernels,
            origin=settings.origin,
            at_once=settings.limits.regions,
        )
        if pv
        else {}
    )
    testable = found.get(settings.origin) is not None
    types = {
        region: [
            kind
            for kind in kinds
            if kind.virtualization is Virtualization.HVM
            or (testable and found.get(region, "") is not None)
        ]
        for region in wanted
    }
    if not types[settings.origin]:
        raise EC2ServiceException(
            f"none of the AMI types {', '.join(map(str, settings.amis.types))} can be made of an "
            f"{image.architecture} image in {settings.origin}; change ec2.amis.types"
        )
    where = "this region" if testable else f"{settings.origin}, where it would be tested"
    made_in = {region: made for region, made in types.items() if made}
    return Plan(
        settings.origin,
        made_in,
        _tested(made_in, settings),
        {region: kernel for region, kernel in found.items() if kernel},
        {
            region: f"no paravirtual AMIs: EC2 has no PV-GRUB kernel in {where}"
            for region, made in types.items()
            if len(made) < len(kinds)
        },
    )


def _tested(types: Mapping[str, Sequence[AMIType]], settings: EC2) -> dict[str, list[AMIType]]:
    """Which AMI types are booted, by region. Raises EC2ServiceException for a region of no AMI."""
    test = settings.test
    if missing := [region for region in test.regions if region not in types]:
        raise EC2ServiceException(
            f"no AMI is made in {', '.join(missing)}, which ec2.test.regions names; correct that, "
            "or ec2.regions and ec2.exclude_regions"
        )
    order = list(Virtualization)
    tested: dict[str, list[AMIType]] = {}
    for region in (settings.origin, *test.regions):
        # HVM first: an image may fail PV alone.
        kinds = sorted(types[region], key=lambda kind: order.index(kind.virtualization))
        first = {kind.virtualization: kind for kind in reversed(kinds)}
        tested[region] = [k for k in kinds if test.amis == "types" or k is first[k.virtualization]]
    return tested


def _texts(types: Mapping[str, Sequence[AMIType]]) -> dict[str, list[str]]:
    return {region: [str(kind) for kind in kinds] for region, kinds in types.items()}


def _parsed(types: Mapping[str, Sequence[str]]) -> dict[str, list[AMIType]]:
    return {region: [AMIType.parse(kind) for kind in kinds] for region, kinds in types.items()}


def _possible(kind: AMIType, architecture: Architecture) -> bool:
    return kind.virtualization is Virtualization.HVM or architecture is Architecture.X86_64
