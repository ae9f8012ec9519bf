"""Which regions an image goes to."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES
from fedimg.aws.client.types import Client
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


def chosen(region: str, settings: EC2) -> bool:
    """Return whether the settings let images go to a region, if the account has it."""
    named = region in (settings.regions or [region])
    return region == settings.origin or (named and region not in settings.exclude_regions)


def unwanted(clients: Clients, settings: EC2, regions: Collection[str]) -> dict[str, str]:
    """Return those of some regions where nothing is published any more, and why."""
    dropped = {
        each: "the configuration leaves it out" for each in regions if not chosen(each, settings)
    }
    if set(regions) <= set(dropped):
        return dropped
    try:
        shown = clients.ec2_brief(settings.origin).describe_regions()["Regions"]
    except FAILURES:
        # Another time.
        return dropped
    enabled = {str(region["RegionName"]) for region in shown}
    gone = {each: "the account has it enabled no more" for each in regions if each not in enabled}
    return {**gone, **dropped}


def expected(clients: Clients, settings: EC2) -> list[str]:
    """The regions that images will most probably go to, the origin first; EC2 is not asked."""
    named = settings.regions or clients.known_regions(settings.origin)
    return _chosen(named, settings)


def _chosen(named: Iterable[str], settings: EC2) -> list[str]:
    others = set(named) - set(settings.exclude_regions) - {settings.origin}
    return [settings.origin, *sorted(others)]
