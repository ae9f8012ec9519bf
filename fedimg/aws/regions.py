"""Choose the regions that an image goes to."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES
from fedimg.aws.client.types import EC2Client
from fedimg.config import EC2
from fedimg.exceptions import EC2ServiceException


def selected(ec2: EC2Client, settings: EC2) -> list[str]:
    """Return the regions that the account has enabled and the settings choose, the origin first.

    Raises EC2ServiceException when the settings name a region that is not enabled.
    """
    enabled = {region["RegionName"] for region in ec2.describe_regions()["Regions"]}
    named = settings.regions or sorted(enabled)
    unknown = sorted({settings.origin, *named} - enabled)
    if unknown:
        raise EC2ServiceException(
            f"the account has not enabled {', '.join(unknown)}; enable it, or change ec2.origin "
            "and ec2.regions in fedimg.toml"
        )
    return _origin_first(named, settings)


def is_selected(region: str, settings: EC2) -> bool:
    """Return whether the settings include a region, if the account has it."""
    named = region in (settings.regions or [region])
    return region == settings.origin or (named and region not in settings.exclude_regions)


def deselected(clients: Clients, settings: EC2, regions: Collection[str]) -> dict[str, str]:
    """Return those of some regions where nothing is published any more, each with the reason."""
    excluded = {
        each: "the configuration excludes it" for each in regions if not is_selected(each, settings)
    }
    if set(regions) <= set(excluded):
        return excluded
    try:
        described = clients.ec2_brief(settings.origin).describe_regions()["Regions"]
    except FAILURES:
        # A later call will tell.
        return excluded
    enabled = {str(region["RegionName"]) for region in described}
    disabled = {
        each: "the account no longer has it enabled" for each in regions if each not in enabled
    }
    return {**disabled, **excluded}


def expected(clients: Clients, settings: EC2) -> list[str]:
    """Return the regions that images will probably go to, the origin first, without asking EC2."""
    named = settings.regions or clients.known_regions(settings.origin)
    return _origin_first(named, settings)


def _origin_first(named: Iterable[str], settings: EC2) -> list[str]:
    others = set(named) - set(settings.exclude_regions) - {settings.origin}
    return [settings.origin, *sorted(others)]
