"""AMI types become AMIs: RegisterImage, from one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fedimg.aws.client.already_gone import already_gone
from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.errors import code, missing
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import Labels, ami_name
from fedimg.config import AMIs
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI, AMIType, Architecture, RawImage, Virtualization
from fedimg.parallel import run_parallel

ROLE = "ami"
#: A taken name gets the next number; more than this many builds of one name is a mistake.
_NUMBERS = 100


@dataclass(frozen=True)
class Basis:
    """What the AMIs of an image in one region are made from.

    `snapshot` is complete; `kernel` is the region's PV-GRUB, without which no PV AMI can be.
    """

    image: RawImage
    region: str
    snapshot: str
    kernel: str | None
    attributes: AMIs


def register_all(
    ec2: Client, waiter: Waiter, labels: Labels, kinds: Sequence[AMIType], basis: Basis
) -> list[AMI]:
    """One AMI of each type, all at once, as `register` makes and finds each.

    What one of them raises is raised when the others are made: a clean-up finds those.
    """
    made = run_parallel(
        {kind: partial(register, ec2, waiter, labels, kind, basis) for kind in kinds}, len(kinds)
    )
    return list(made.values())


def register(ec2: Client, waiter: Waiter, labels: Labels, kind: AMIType, basis: Basis) -> AMI:
    """One AMI from a completed snapshot; the one that is there already when it is this job's.

    RegisterImage takes no client token: the name, which EC2 keeps unique, does its work.
    Raises botocore's ClientError when EC2 refuses, EC2ServiceException for PV without a kernel.
    """
    request = _request(kind, basis)
    region, snapshot = basis.region, basis.snapshot
    for number in range(_NUMBERS):
        name = ami_name(basis.image.name, kind, region, number)
        try:
            made = waiter.settled(
                lambda name=name: ec2.register_image(  # type: ignore[misc]
                    Name=name,
                    TagSpecifications=labels.specifications(["image"], ROLE, name),
                    **request,
                )
            )
            return AMI(str(made["ImageId"]), name, region, kind, snapshot)
        except Exception as error:
            if code(error) != "InvalidAMIName.Duplicate":
                raise
        holder = waiter.shown(
            lambda name=name: _holder(ec2, name),  # type: ignore[misc]
            what=f"the AMI that is named {name}",
        )
        if labels.own(holder.get("Tags")) and snapshot in snapshots_of(holder):
            return AMI(str(holder["ImageId"]), name, region, kind, snapshot)
    name = ami_name(basis.image.name, kind, region, 0)
    raise EC2ServiceException(f"{_NUMBERS} AMIs named like {name} exist; remove some")


def available(
    ec2: Client,
    waiter: Waiter,
    amis: Sequence[AMI],
    *,
    limit: float,
    polling: BatchedPolling | None = None,
) -> None:
    """Wait until AMIs of one region can be launched, with whoever else waits in these `polling`.

    Raises EC2ServiceException when one fails or takes longer than `limit` seconds.
    """
    wanted = sorted(ami.id for ami in amis)

    def judge(images: list[dict[str, Any]]) -> bool | None:
        for image in images:
            if image["State"] not in ("pending", "available"):
                reason = image.get("StateReason", {}).get("Message") or "EC2 gives no reason"
                raise EC2ServiceException(
                    f"AMI {image['ImageId']} ended {image['State']}: {reason}", later=True
                )
        return True if all(image["State"] == "available" for image in images) else None

    (polling or BatchedPolling()).images.wait(
        ec2, waiter, wanted, judge, what=f"AMIs {', '.join(wanted)} available", limit=limit
    )


def public(ec2: Client, amis: Sequence[AMI]) -> bool:
    """Whether every one of these AMIs of one region is public already."""
    images = ec2.describe_images(ImageIds=[ami.id for ami in amis])["Images"]
    return len(images) == len(amis) and all(image["Public"] for image in images)


def deregister(ec2: Client, ami: AMI) -> None:
    """Remove an AMI; its snapshot stays. One that is gone already is no error."""
    try:
        ec2.deregister_image(ImageId=ami.id)
    except Exception as error:
        if not already_gone(ec2, ami.id, error):
            raise


def root(ec2: Client, ami: AMI) -> tuple[str, int]:
    """The name of an AMI's root device, and how large its volume is, in GiB.

    Raises EC2ServiceException when somebody has deregistered it.
    """
    images = ec2.describe_images(ImageIds=[ami.id])["Images"]
    if not images:
        raise missing(ami.id)
    image = images[0]
    device = str(image["RootDeviceName"])
    sizes = {m["DeviceName"]: m["Ebs"]["VolumeSize"] for m in image["BlockDeviceMappings"]}
    return device, int(sizes[device])


def snapshots_of(image: dict[str, Any]) -> set[str]:
    """The snapshots that an AMI, as EC2 describes it, is made from."""
    return {
        mapping["Ebs"].get("SnapshotId", "")
        for mapping in image.get("BlockDeviceMappings", ())
        if "Ebs" in mapping
    }


def _request(kind: AMIType, basis: Basis) -> dict[str, Any]:
    image, attributes = basis.image, basis.attributes
    # RegisterImage's own defaults are paravirtual and i386, so both are always said.
    hvm = kind.virtualization is Virtualization.HVM
    root = "/dev/sda1" if hvm else "/dev/sda"
    request: dict[str, Any] = {
        # Tags are invisible to other accounts; the description is what a user can trace.
        "Description": " ".join(filter(None, (image.build, image.checksum, image.url)))[:255],
        "Architecture": str(image.architecture),
        "VirtualizationType": str(kind.virtualization),
        "RootDeviceName": root,
        "BlockDeviceMappings": [
            {
                "DeviceName": root,
                "Ebs": {
                    "SnapshotId": basis.snapshot,
                    "VolumeType": kind.volume_type,
                    "DeleteOnTermination": True,
                },
            }
        ],
    }
    if not hvm:
        if not basis.kernel:
            # EC2 would choose one for a disk without partitions.
            raise EC2ServiceException(
                "the region could not be asked for its PV-GRUB kernel when this was planned; "
                "'fedimg retry' asks again",
                later=True,
            )
        return request | {"KernelId": basis.kernel}
    # EC2 boots arm64 by UEFI alone.
    boot_mode = "uefi" if image.architecture is Architecture.ARM64 else attributes.boot_mode
    if boot_mode != "default":
        request["BootMode"] = boot_mode
    if attributes.imdsv2:
        request["ImdsSupport"] = "v2.0"
    if attributes.tpm:
        request["TpmSupport"] = "v2.0"
    return request | {"EnaSupport": attributes.ena}


def _holder(ec2: Client, name: str) -> dict[str, Any] | None:
    found = ec2.describe_images(
        Owners=["self"],
        Filters=[{"Name": "name", "Values": [name]}],
        # A disabled AMI keeps its name.
        IncludeDisabled=True,
    )
    return found["Images"][0] if found["Images"] else None
