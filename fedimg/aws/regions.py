"""Which regions an image goes to, and what each offers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fedimg.aws.clients import Client, Clients
from fedimg.config import EC2
from fedimg.exceptions import EC2ServiceException

# PV-GRUB for a partitioned disk; `pv-grub-hd0_` would be for a bare file system.
_PV_GRUB = "pv-grub-hd00_*x86_64*"
_VERSION = re.compile(r"_(\d+(?:\.\d+)*)")


def wanted(ec2: Client, settings: EC2) -> list[str]:
    """The regions that the account has enabled and the settings choose, the origin first.

    Raises EC2ServiceException when a region is named that the account does not have.
    """
    enabled = {region["RegionName"] for region in ec2.describe_regions()["Regions"]}
    named = settings.regions or sorted(enabled)
    unknown = sorted({settings.origin, *named} - enabled)
    if unknown:
        raise EC2ServiceException(
            f"the account has no region {', '.join(unknown)} enabled; "
            "enable it, or change origin and regions in fedimg.toml"
        )
    return _chosen(named, settings)


def expected(clients: Clients, settings: EC2) -> list[str]:
    """The regions that images will most probably go to, the origin first; EC2 is not asked."""
    named = settings.regions or clients.known_regions(settings.origin)
    return _chosen(named, settings)


def paravirtual_kernel(ec2: Client, region: str, configured: dict[str, str]) -> str | None:
    """The region's newest PV-GRUB kernel, or the configured one; None where EC2 has none.

    The kernels are Amazon's own images of type kernel; only the older regions have them.
    """
    if region in configured:
        return configured[region]
    kernels = ec2.describe_images(
        Owners=["amazon"],
        Filters=[
            {"Name": "image-type", "Values": ["kernel"]},
            {"Name": "architecture", "Values": ["x86_64"]},
            {"Name": "name", "Values": [_PV_GRUB]},
        ],
    )["Images"]
    if not kernels:
        return None
    return str(max(kernels, key=lambda kernel: _version(kernel.get("Name", "")))["ImageId"])


def _chosen(named: Iterable[str], settings: EC2) -> list[str]:
    others = set(named) - set(settings.exclude_regions) - {settings.origin}
    return [settings.origin, *sorted(others)]


def _version(name: str) -> tuple[int, ...]:
    found = _VERSION.search(name)
    return tuple(int(part) for part in found[1].split(".")) if found else ()
