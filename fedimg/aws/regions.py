"""Choose the regions that an image goes to."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from fedimg.aws.client.clients import Clients, partition_of
from fedimg.aws.client.errors import FAILURES
from fedimg.aws.client.types import EC2Client
from fedimg.config import EC2
from fedimg.exceptions import EC2ServiceException

#: As in eu-west-1, us-gov-east-1 or eusc-de-east-1.
_NAME = re.compile(r"[a-z]{2,8}(-[a-z]{1,16}){1,3}-[1-9][0-9]?", re.ASCII)


def well_named(region: str) -> bool:
    """Return whether a text has the form of a region's name."""
    return _NAME.fullmatch(region) is not None


def enabled(ec2: EC2Client) -> set[str]:
    """Return the regions that the account has enabled."""
    return {str(region["RegionName"]) for region in ec2.describe_regions()["Regions"]}


def selected(ec2: EC2Client, settings: EC2) -> list[str]:
    """Return the regions that the account has enabled and the settings choose, the origin first.

    Raises EC2ServiceException when the settings name a region that is not enabled, or that is in
    another partition than the origin.
    """
    there = enabled(ec2)
    named = settings.regions or sorted(there)
    unknown = sorted({settings.origin, *named} - there)
    partition = partition_of(settings.origin)
    if elsewhere := [each for each in unknown if partition_of(each) != partition]:
        raise EC2ServiceException(
            f"{', '.join(elsewhere)} is not in {partition}, the partition of "
            f"{settings.origin}: an account has regions of one partition, and another needs "
            "an account and a site of its own; remove it from ec2.regions in fedimg.toml"
        )
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
        there = enabled(clients.ec2_brief(settings.origin))
    except FAILURES:
        # A later call will tell.
        return excluded
    disabled = {
        each: "the account no longer has it enabled" for each in regions if each not in there
    }
    return {**disabled, **excluded}


def expected(clients: Clients, settings: EC2) -> list[str]:
    """Return the regions that images will probably go to, the origin first, without asking EC2."""
    named = settings.regions or clients.known_regions(settings.origin)
    return _origin_first(named, settings)


def _origin_first(named: Iterable[str], settings: EC2) -> list[str]:
    others = set(named) - set(settings.exclude_regions) - {settings.origin}
    return [settings.origin, *sorted(others)]
