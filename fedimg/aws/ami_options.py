"""Give AMIs the options of the configuration: at their registration, after it, once public."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from fedimg.aws.client.errors import code
from fedimg.aws.client.types import EC2Client
from fedimg.aws.client.waiter import Waiter
from fedimg.config import AMIs
from fedimg.config.ami_options import GP3_IOPS, GP3_THROUGHPUT, PROTECTIONS, Kind, read_uefi_data
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI, AMIType, Architecture, Options, Virtualization

#: EC2's code for an AMI that is protected from deregistration.
PROTECTED = "OperationNotPermitted"


def options(ami_type: AMIType, architecture: Architecture, settings: AMIs) -> Options | None:
    """Return the options of an AMI of this type, None when all are off.

    Raises EC2ServiceException when the file of UEFI data cannot be used any more.
    """
    hvm = ami_type.virtualization is Virtualization.HVM
    gp3 = ami_type.volume_type == "gp3"
    kind: Kind = "paravirtual"
    if hvm:
        kind = "x86_64" if architecture is Architecture.X86_64 else "arm64"
    data = _uefi_data(ami_type, architecture, settings)
    tuned = gp3 and (settings.gp3_iops, settings.gp3_throughput) != (GP3_IOPS, GP3_THROUGHPUT)
    found = Options(
        sriov=hvm and settings.sriov,
        uefi_data=hashlib.sha256(data.encode()).hexdigest() if data else "",
        iops=settings.gp3_iops if tuned else None,
        throughput=settings.gp3_throughput if tuned else None,
        supported=tuple(settings.supported(kind)),
        unsupported=tuple(settings.unsupported(kind)),
        protection=PROTECTIONS[settings.deregistration_protection],
    )
    return None if found == Options() else found


def registration(ami_type: AMIType, architecture: Architecture, settings: AMIs) -> dict[str, Any]:
    """Return what RegisterImage is told of an AMI's machine: boot, metadata, network.

    Raises what `options` does.
    """
    if ami_type.virtualization is Virtualization.PARAVIRTUAL:
        return {}
    request: dict[str, Any] = {}
    # EC2 boots arm64 with UEFI only.
    boot_mode = "uefi" if architecture is Architecture.ARM64 else settings.boot_mode
    if boot_mode != "default":
        request["BootMode"] = boot_mode
    if settings.imdsv2:
        request["ImdsSupport"] = "v2.0"
    if settings.tpm:
        request["TpmSupport"] = "v2.0"
    if settings.sriov:
        request["SriovNetSupport"] = "simple"
    if data := _uefi_data(ami_type, architecture, settings):
        request["UefiData"] = data
    return request | {"EnaSupport": settings.ena}


def told(ami_type: AMIType, architecture: Architecture, settings: AMIs) -> dict[str, Any]:
    """Return all that EC2 is told of such an AMI beyond its disk, with EC2's names.

    The UEFI data is told by its SHA-256. Raises what `options` does.
    """
    chosen = options(ami_type, architecture, settings) or Options()
    values = registration(ami_type, architecture, settings) | volume(chosen)
    if chosen.uefi_data:
        values["UefiData"] = f"sha256:{chosen.uefi_data}"
    values |= specification(chosen)
    if chosen.protection != PROTECTIONS["off"]:
        values["DeregistrationProtection"] = chosen.protection
    return values


def volume(chosen: Options | None) -> dict[str, int]:
    """Return what a root volume's block device mapping says of its speed."""
    if chosen is None or chosen.iops is None or chosen.throughput is None:
        return {}
    return {"Iops": chosen.iops, "Throughput": chosen.throughput}


def specify(ec2: EC2Client, waiter: Waiter, amis: Iterable[AMI]) -> None:
    """Tell EC2 the instance types of those AMIs that have a list of them; twice is no error."""
    for ami in amis:
        if wanted := specification(ami.options):
            waiter.settled(
                lambda id=ami.id, wanted=wanted: ec2.replace_image_instance_type_specification(  # type: ignore[misc]
                    ImageId=id, InstanceTypeSpecification=wanted
                )
            )


def specification(chosen: Options | None) -> dict[str, list[str]]:
    """Return the instance types of an AMI with EC2's names; empty when it has no list."""
    if chosen is None:
        return {}
    named = {
        "SupportedInstanceTypes": list(chosen.supported),
        "UnsupportedInstanceTypes": list(chosen.unsupported),
    }
    return {name: types for name, types in named.items() if types}


def protect(ec2: EC2Client, waiter: Waiter, ami: AMI) -> None:
    """Protect an AMI from deregistration, if its options say so; twice is no error."""
    if ami.options is None or ami.options.protection == PROTECTIONS["off"]:
        return
    cool_down = ami.options.protection == PROTECTIONS["with cool-down"]
    waiter.settled(
        lambda: ec2.enable_image_deregistration_protection(ImageId=ami.id, WithCooldown=cool_down)
    )


def deregister_protected(ec2: EC2Client, ami: str, **arguments: Any) -> Any:
    """Deregister an AMI; where EC2 protects it from that, end the protection first.

    Return EC2's answer. Raises EC2ServiceException while the protection's cool-down lasts.
    """
    try:
        return ec2.deregister_image(ImageId=ami, **arguments)
    except Exception as error:
        if code(error) != PROTECTED:
            raise
    ec2.disable_image_deregistration_protection(ImageId=ami)
    try:
        return ec2.deregister_image(ImageId=ami, **arguments)
    except Exception as error:
        if code(error) != PROTECTED:
            raise
        raise EC2ServiceException(
            f"EC2 does not let AMI {ami} be deregistered yet: its deregistration protection has "
            f"been ended, and its cool-down lasts up to 24 hours; try again after that ({error})",
            later=True,
        ) from error


def watermarks(ec2: EC2Client, ami: str) -> list[str]:
    """Return the keys of an AMI's watermarks, with which EC2 lets it not become public."""
    shown: Any = ec2.describe_images(ImageIds=[ami])["Images"]
    return [
        str(each["WatermarkKey"]) for image in shown for each in image.get("ImageWatermarks", ())
    ]


def _uefi_data(ami_type: AMIType, architecture: Architecture, settings: AMIs) -> str:
    """Return the UEFI data of an AMI, or an empty text: it is for x86_64 HVM AMIs."""
    hvm = ami_type.virtualization is Virtualization.HVM
    if not settings.uefi_data or not hvm or architecture is not Architecture.X86_64:
        return ""
    try:
        return read_uefi_data(settings.uefi_data)
    except ValueError as error:
        raise EC2ServiceException(f"ec2.amis.uefi_data: {error}", later=True) from error
