"""RegisterImage: which images EC2 takes, and that each keeps every attribute it was given."""

import re
from typing import Any

from lab.ec2 import bundles, image_options, images, volume_types
from lab.ec2.errors import EC2Error, combination, invalid, missing
from lab.ec2.tagging import given
from lab.ec2.world import Call, Image, Tags, new_id

NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}")
ARCHITECTURES = ("i386", "x86_64", "arm64", "x86_64_mac", "arm64_mac")
BOOT_MODES = ("legacy-bios", "uefi", "uefi-preferred")


def check_name(call: Call, name: str | None) -> str:
    """Raise EC2Error for a name that EC2 does not allow, or that the account uses here."""
    if not name:
        raise missing("name")
    if not NAME.fullmatch(name):
        raise EC2Error(
            "InvalidAMIName.Malformed",
            "AMI names must be between 3 and 128 characters long, and may contain letters, "
            "numbers, '(', ')', '.', '-', '/', '_', '[', ']', ' ', ''' and '@'",
        )
    for image in call.world.images.values():
        if (image.name, image.region, image.owner) == (name, call.region, call.account):
            if image.state == "failed":
                continue
            raise EC2Error(
                "InvalidAMIName.Duplicate",
                f"AMI name {name} is already in use by AMI {image.id}",
            )
    return name


def add(call: Call, image: Image, tags: Tags, seconds: float) -> None:
    """Let a new image exist, available in so many seconds."""
    call.world.images[image.id] = image
    call.world.born("image", image, tags)
    images.settle(call.world, image, seconds)


def register_image(call: Call) -> dict[str, Any]:
    params = call.params
    tags = given(call, "image")["image"]
    location = params.get("ImageLocation")
    bundle = bundles.manifest(call.account, call.region, location) if location else None
    name = check_name(call, params.get("Name"))
    virtualization = params.get("VirtualizationType", "paravirtual")
    if virtualization not in ("hvm", "paravirtual"):
        raise invalid(virtualization, "virtualizationType", "Valid values: hvm, paravirtual.")
    architecture = params.get("Architecture", bundle.architecture if bundle else "i386")
    if bundle and architecture != bundle.architecture:
        raise combination(
            f"The architecture {architecture} is not the manifest's, {bundle.architecture}."
        )
    if architecture not in ARCHITECTURES:
        raise invalid(architecture, "architecture", f"Valid values: {', '.join(ARCHITECTURES)}.")
    root = params.get("RootDeviceName", "/dev/sda1")
    mappings = _mappings(call, root, in_bundle=bundle is not None)
    _check_boot(params, architecture, virtualization)
    _check_network(params, virtualization)
    boot_mode = params.get("BootMode") or ("uefi" if architecture == "arm64" else None)
    image_options.check_uefi_data(params.get("UefiData"), boot_mode)
    image = Image(
        id=new_id("ami"),
        owner=call.account,
        region=call.region,
        name=name,
        architecture=architecture,
        virtualization=virtualization,
        root_device=root,
        mappings=mappings,
        description=params.get("Description"),
        kernel=_kernel(call, architecture, virtualization),
        ramdisk=params.get("RamdiskId"),
        ena=bool(params.get("EnaSupport")),
        sriov=params.get("SriovNetSupport"),
        boot_mode=boot_mode,
        tpm=params.get("TpmSupport"),
        imds=params.get("ImdsSupport"),
        uefi_data=params.get("UefiData"),
        manifest=location,
    )
    add(call, image, tags, call.world.delays.image)
    return {"ImageId": image.id}


def _mappings(call: Call, root: str, *, in_bundle: bool) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    for mapping in call.params.get("BlockDeviceMappings", []):
        device = mapping.get("DeviceName")
        if not device:
            raise missing("deviceName")
        if any(other["DeviceName"] == device for other in shown):
            raise EC2Error(
                "InvalidBlockDeviceMapping",
                f"The device '{device}' is used in more than one block-device mapping",
            )
        if "NoDevice" in mapping:
            continue
        if "VirtualName" in mapping:
            shown.append({"DeviceName": device, "VirtualName": mapping["VirtualName"]})
            continue
        if "Ebs" not in mapping:
            raise EC2Error("MissingParameter", f"The mapping of {device} must contain ebs")
        shown.append({"DeviceName": device, "Ebs": _ebs(call, device, mapping["Ebs"])})
    if in_bundle and any(m["DeviceName"] == root for m in shown):
        raise EC2Error(
            "InvalidBlockDeviceMapping",
            f"The root device '{root}' is in the bundle, and can be mapped to nothing else",
        )
    at_root = [m for m in shown if m["DeviceName"] == root and m.get("Ebs", {}).get("SnapshotId")]
    if not at_root and not in_bundle:
        raise EC2Error(
            "InvalidBlockDeviceMapping",
            f"The root device '{root}' must be mapped to a snapshot, and is not",
        )
    return shown


def _ebs(call: Call, device: str, ebs: dict[str, Any]) -> dict[str, Any]:
    snapshot = None
    if ebs.get("SnapshotId"):
        if "Encrypted" in ebs:
            raise EC2Error(
                "InvalidBlockDeviceMapping",
                f"the encrypted flag cannot be specified since device {device} has a snapshot "
                "specified.",
            )
        snapshot = call.own_snapshot(ebs["SnapshotId"])
        if snapshot.state != "completed":
            raise EC2Error(
                "IncorrectState",
                f"Snapshot {snapshot.id} is in invalid state - {snapshot.state}",
            )
    shape = volume_types.shape(
        ebs.get("VolumeType"),
        ebs.get("VolumeSize"),
        ebs.get("Iops"),
        ebs.get("Throughput"),
        (snapshot.id, snapshot.size) if snapshot else None,
    )
    shown: dict[str, Any] = {
        "DeleteOnTermination": ebs.get("DeleteOnTermination", True),
        "VolumeSize": shape.size,
        "VolumeType": shape.type,
        "Encrypted": snapshot.encrypted if snapshot else bool(ebs.get("Encrypted")),
    }
    if snapshot:
        shown["SnapshotId"] = snapshot.id
    # The defaults of a type are its volumes' business and no attribute of the image.
    return shown | {name: ebs[name] for name in ("Iops", "Throughput") if name in ebs}


def _check_boot(params: dict[str, Any], architecture: str, virtualization: str) -> None:
    boot, tpm = params.get("BootMode"), params.get("TpmSupport")
    if boot and boot not in BOOT_MODES:
        raise invalid(boot, "bootMode", f"Valid values: {', '.join(BOOT_MODES)}.")
    if tpm and tpm != "v2.0":
        raise invalid(tpm, "tpmSupport", "Valid value: v2.0.")
    if params.get("ImdsSupport") and params["ImdsSupport"] != "v2.0":
        raise invalid(params["ImdsSupport"], "imdsSupport", "Valid value: v2.0.")
    if architecture == "arm64":
        if virtualization != "hvm":
            raise combination("Architecture arm64 requires virtualization type hvm.")
        if boot not in (None, "uefi"):
            raise combination(f"Boot mode {boot} is not supported for architecture arm64.")
    if virtualization == "paravirtual":
        if architecture not in ("i386", "x86_64"):
            raise combination(f"Paravirtual images cannot have architecture {architecture}.")
        if boot not in (None, "legacy-bios"):
            raise combination(f"Boot mode {boot} is not supported for paravirtual images.")
    if tpm and (boot or ("uefi" if architecture == "arm64" else None)) != "uefi":
        raise combination("TpmSupport v2.0 requires boot mode uefi.")


def _check_network(params: dict[str, Any], virtualization: str) -> None:
    sriov = params.get("SriovNetSupport")
    if sriov and sriov != "simple":
        raise invalid(sriov, "sriovNetSupport", "Valid value: simple.")
    if virtualization == "paravirtual" and (params.get("EnaSupport") or sriov):
        raise combination("Enhanced networking is not supported for paravirtual images.")


def _kernel(call: Call, architecture: str, virtualization: str) -> str | None:
    """Return the image's kernel; a paravirtual image that names none gets the region's default."""
    wanted = call.params.get("KernelId")
    if virtualization == "hvm":
        if wanted or call.params.get("RamdiskId"):
            raise combination("An hvm image has neither a kernel nor a ramdisk of its own.")
        return None
    offered = [
        image
        for image in call.world.images.values()
        if image.type == "kernel" and image.region == call.region
    ]
    if wanted is None:
        for kernel in offered:
            if kernel.architecture == architecture:
                return kernel.id
        raise combination(
            f"Paravirtual images need a kernel, and {call.region} has none: it does not support "
            "paravirtual instances."
        )
    kernel = call.image(wanted)
    if kernel.type != "kernel":
        raise invalid(wanted, "kernelId", "It is not an image of type kernel.")
    if kernel.architecture != architecture:
        raise combination(
            f"Kernel {wanted} is for {kernel.architecture}, the image for {architecture}."
        )
    return kernel.id


OPERATIONS = {"RegisterImage": register_image}
