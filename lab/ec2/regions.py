"""The regions, and the PV-GRUB kernels that only the older ones have."""

from typing import Any
from zlib import crc32

from lab.ec2 import filters
from lab.ec2.errors import EC2Error
from lab.ec2.partitions import COMMERCIAL, domain_of, partition_of
from lab.ec2.world import AMAZON, Call, Image

KERNEL_REGIONS = (
    "us-east-1",
    "us-west-1",
    "us-west-2",
    "eu-west-1",
    "eu-central-1",
    "ap-northeast-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "sa-east-1",
)

# Regions that every account has; the others are opted into, and the lab's account is, everywhere.
ALWAYS_ON = (
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ca-central-1",
    "eu-central-1",
    "eu-north-1",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
)

PV_GRUB = "1.05"


def kernels(region: str) -> list[Image]:
    """Amazon's PV-GRUB of a region: for unpartitioned (hd0) and partitioned (hd00) disks.

    The ids come from the names, so that they are the same in every run.
    """
    made = []
    for disk in ("hd0", "hd00"):
        for architecture in ("i386", "x86_64"):
            name = f"pv-grub-{disk}_{PV_GRUB}-{architecture}.gz"
            made.append(
                Image(
                    id=f"aki-{crc32(f'{region}/{name}'.encode()):08x}",
                    owner=AMAZON,
                    region=region,
                    name=name,
                    architecture=architecture,
                    virtualization="paravirtual",
                    root_device=None,
                    mappings=[],
                    description="PV-GRUB release 1.05",
                    type="kernel",
                    location=f"ec2-public-images-{region}/{name}.manifest.xml",
                    state="available",
                    public=True,
                )
            )
    return made


def describe_regions(call: Call) -> dict[str, Any]:
    wanted = call.params.get("RegionNames", [])
    unknown = [name for name in wanted if name not in call.world.regions]
    if unknown:
        raise EC2Error("InvalidParameterValue", f"Invalid region names: [{', '.join(unknown)}]")
    rows = [
        {
            "OptInStatus": "opt-in-not-required" if _always_on(name) else "opted-in",
            "RegionName": name,
            "Endpoint": f"ec2.{name}.{domain_of(call.world.partition)}",
        }
        for name in call.world.regions
        if not wanted or name in wanted
    ]
    known = {
        "region-name": filters.field("RegionName"),
        "endpoint": filters.field("Endpoint"),
        "opt-in-status": filters.field("OptInStatus"),
    }
    return {"Regions": filters.select(rows, call, known)}


def _always_on(region: str) -> bool:
    """Return whether every account has a region; outside of `aws` there is none to opt into."""
    return region in ALWAYS_ON or partition_of(region) != COMMERCIAL


OPERATIONS = {"DescribeRegions": describe_regions}
