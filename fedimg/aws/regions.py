"""Which regions an image goes to."""

from __future__ import annotations

from collections.abc import Iterable

from fedimg.aws.clients import Client, Clients
from fedimg.config import EC2
from fedimg.exceptions import EC2ServiceException


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


def _chosen(named: Iterable[str], settings: EC2) -> list[str]:
    others = set(named) - set(settings.exclude_regions) - {settings.origin}
    return [settings.origin, *sorted(others)]
