"""AWS's partitions as botocore's data has them: their regions, and their endpoints' domains.

The domains of instances' private names, which follow from regions, are here too.
"""

from collections.abc import Sequence
from functools import cache

import boto3
import botocore.session
from botocore.exceptions import UnknownRegionError
from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend, Zone

COMMERCIAL = "aws"
#: The partitions that the lab serves, by botocore's names, and where its sites write images. The
#: others are cut off from the internet, and moto's IAM has none of them.
ORIGINS = {
    COMMERCIAL: "us-east-1",
    "aws-cn": "cn-north-1",
    "aws-us-gov": "us-gov-west-1",
    "aws-eusc": "eusc-de-east-1",
}


@cache
def regions_of(partition: str) -> tuple[str, ...]:
    """Return the regions of a partition that botocore has data of."""
    return tuple(_session().get_available_regions("ec2", partition_name=partition))


def commercial() -> tuple[str, ...]:
    """Return the regions of the partition `aws`."""
    return regions_of(COMMERCIAL)


@cache
def partition_of(region: str) -> str:
    """Return a region's partition. Raises ValueError for one that the lab does not serve."""
    try:
        partition = str(_session().get_partition_for_region(region))
    except UnknownRegionError:
        # A name that no partition has a form for: the lab's own, as of a region that is new.
        partition = COMMERCIAL
    if partition not in ORIGINS:
        raise ValueError(
            f"{region} is in {partition}; the lab serves {', '.join(ORIGINS)} and no other"
        )
    return partition


def partitions_of(regions: Sequence[str]) -> set[str]:
    """Return the partition of some regions. Raises ValueError when they are not of one."""
    found = {partition_of(region) for region in regions}
    if len(found) != 1:
        raise ValueError(
            f"regions of {', '.join(sorted(found))}: an account has those of one partition"
        )
    return found


@cache
def domain_of(partition: str) -> str:
    """Return the domain below which a partition's endpoints are, such as amazonaws.com.cn."""
    data = botocore.session.Session().get_data("partitions")["partitions"]
    return next(str(each["outputs"]["dnsSuffix"]) for each in data if each["id"] == partition)


def private_name(address: str, region: str) -> str:
    """Return the name, with its domain, that an instance at a private address has in its VPC."""
    domain = "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"
    return f"ip-{address.replace('.', '-')}.{domain}"


@cache
def _session() -> boto3.Session:
    return boto3.Session()


def fill_zones(regions: tuple[str, ...]) -> None:
    """Give zones to regions of which moto knows none, such as the newest partition's."""
    zones = RegionsAndZonesBackend.zones
    for region in regions:
        if region not in zones:
            prefix = "".join(part[0] for part in region.split("-")[:-1]) + region[-1]
            zones[region] = [
                Zone(f"{region}{letter}", region, f"{prefix}-az{number}", "availability-zone")
                for number, letter in enumerate("abc", start=1)
            ]
