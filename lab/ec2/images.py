"""Images as they are: described, their attributes read, deregistered."""

from collections.abc import Iterable
from typing import Any

from lab.ec2 import filters, image_options, snapshots
from lab.ec2.errors import EC2Error, invalid
from lab.ec2.faults import FAILED
from lab.ec2.wire import iso
from lab.ec2.world import AMAZON, Call, Image, World, now


def settle(world: World, image: Image, seconds: float) -> None:
    """Let an image be available in so many seconds, when its snapshots are completed.

    Or let it fail then, as the plan of faults has it.
    """

    def available() -> None:
        if world.images.get(image.id) is not image or image.state != "pending":
            return
        held = [world.snapshots[id].state for id in image.snapshot_ids()]
        if "error" in held:
            image.state, image.state_reason = "failed", "Snapshot failed"
        elif "pending" in held:
            world.timeline.after(0.05, available)
        elif fault := world.faults.completing("ImageCompletion", image.region):
            if fault.fault == FAILED:
                image.state, image.state_reason = "failed", fault.message
        else:
            image.state = "available"

    world.timeline.after(seconds, available)


def row(call: Call, image: Image) -> dict[str, Any]:
    """Return an image as DescribeImages shows it."""
    shown: dict[str, Any] = {
        "ImageId": image.id,
        "ImageLocation": image.manifest or image.location or f"{image.owner}/{image.name}",
        "State": image.state,
        "OwnerId": image.owner,
        "CreationDate": iso(image.created.replace(microsecond=0)),
        "Public": image.public,
        "Architecture": image.architecture,
        "ImageType": image.type,
        "PlatformDetails": "Linux/UNIX",
        "UsageOperation": "RunInstances",
        "Name": image.name,
        "Description": image.description,
        "RootDeviceType": image.root_device_type if image.type == "machine" else "instance-store",
        "RootDeviceName": image.root_device,
        "BlockDeviceMappings": image.mappings,
        "VirtualizationType": image.virtualization,
        "Hypervisor": "xen",
        "KernelId": image.kernel,
        "RamdiskId": image.ramdisk,
        "SriovNetSupport": image.sriov,
        "BootMode": image.boot_mode,
        "TpmSupport": image.tpm,
        "ImdsSupport": image.imds,
        "SourceImageId": image.source_image,
        "SourceImageRegion": image.source_region,
        "SourceInstanceId": image.source_instance,
        "DeregistrationProtection": image.protection,
        "InstanceTypeSpecification": image_options.types_row(image),
        "ImageWatermarks": [mark.row() for mark in image.watermarks.values()] or None,
        **call.tagged(image),
    }
    if image.virtualization == "hvm":
        shown["EnaSupport"] = image.ena
    if image.owner == AMAZON:
        shown["ImageOwnerAlias"] = "amazon"
    if image.deprecated_at:
        shown["DeprecationTime"] = iso(image.deprecated_at)
    launched = image.last_launched(call.world.delays.launch_told)
    if launched and image.owner == call.account:
        shown["LastLaunchedTime"] = iso(launched)
    if image.state_reason:
        shown["StateReason"] = {"Code": "Client.InvalidState", "Message": image.state_reason}
    return {name: value for name, value in shown.items() if value is not None}


FILTERS = {
    "architecture": filters.field("Architecture"),
    "block-device-mapping.delete-on-termination": filters.field(
        "BlockDeviceMappings", "Ebs", "DeleteOnTermination"
    ),
    "block-device-mapping.device-name": filters.field("BlockDeviceMappings", "DeviceName"),
    "block-device-mapping.encrypted": filters.field("BlockDeviceMappings", "Ebs", "Encrypted"),
    "block-device-mapping.snapshot-id": filters.field("BlockDeviceMappings", "Ebs", "SnapshotId"),
    "block-device-mapping.volume-size": filters.field("BlockDeviceMappings", "Ebs", "VolumeSize"),
    "block-device-mapping.volume-type": filters.field("BlockDeviceMappings", "Ebs", "VolumeType"),
    "boot-mode": filters.field("BootMode"),
    "creation-date": filters.field("CreationDate"),
    "description": filters.field("Description"),
    "ena-support": filters.field("EnaSupport"),
    "hypervisor": filters.field("Hypervisor"),
    "image-id": filters.field("ImageId"),
    "image-type": filters.field("ImageType"),
    "image-watermark.source-image-creation-time": filters.field(
        "ImageWatermarks", "SourceImageCreationTime"
    ),
    "image-watermark.source-image-id": filters.field("ImageWatermarks", "SourceImageId"),
    "image-watermark.source-image-region": filters.field("ImageWatermarks", "SourceImageRegion"),
    "image-watermark.watermark-creation-time": filters.field(
        "ImageWatermarks", "WatermarkCreationTime"
    ),
    "image-watermark.watermark-key": filters.field("ImageWatermarks", "WatermarkKey"),
    "instance-type-specification.supported-instance-type": filters.field(
        "InstanceTypeSpecification", "SupportedInstanceTypes", "InstanceType"
    ),
    "instance-type-specification.unsupported-instance-type": filters.field(
        "InstanceTypeSpecification", "UnsupportedInstanceTypes", "InstanceType"
    ),
    "imds-support": filters.field("ImdsSupport"),
    "is-public": filters.field("Public"),
    "kernel-id": filters.field("KernelId"),
    "manifest-location": filters.field("ImageLocation"),
    "name": filters.field("Name"),
    "owner-alias": filters.field("ImageOwnerAlias"),
    "owner-id": filters.field("OwnerId"),
    "platform": filters.field("Platform"),
    "platform-details": filters.field("PlatformDetails"),
    "product-code": filters.field("ProductCodes", "ProductCodeId"),
    "product-code.type": filters.field("ProductCodes", "ProductCodeType"),
    "public-ssm-parameter-name": filters.field("PublicSsmParameterName"),
    "ramdisk-id": filters.field("RamdiskId"),
    "root-device-name": filters.field("RootDeviceName"),
    "root-device-type": filters.field("RootDeviceType"),
    "source-image-id": filters.field("SourceImageId"),
    "source-image-region": filters.field("SourceImageRegion"),
    "source-instance-id": filters.field("SourceInstanceId"),
    "sriov-net-support": filters.field("SriovNetSupport"),
    "state": filters.field("State"),
    "state-reason-code": filters.field("StateReason", "Code"),
    "state-reason-message": filters.field("StateReason", "Message"),
    "tpm-support": filters.field("TpmSupport"),
    "usage-operation": filters.field("UsageOperation"),
    "virtualization-type": filters.field("VirtualizationType"),
}


def describe_images(call: Call) -> dict[str, Any]:
    chosen = [image for image in _named(call) if call.sees(image)]
    owners = {_owner(call, o) for o in call.params.get("Owners", [])}
    if owners:
        chosen = [image for image in chosen if image.owner in owners]
    users = call.params.get("ExecutableUsers", [])
    if users:
        chosen = [image for image in chosen if any(_executable(call, image, u) for u in users)]
    named = bool(call.params.get("ImageIds"))
    if not call.params.get("IncludeDeprecated") and not named:
        chosen = [
            image
            for image in chosen
            if image.owner == call.account
            or not (image.deprecated_at and image.deprecated_at <= now())
        ]
    if not call.params.get("IncludeDisabled") and not named:
        chosen = [image for image in chosen if image.state != "disabled"]
    rows = filters.select((row(call, i) for i in chosen), call, FILTERS)
    rows, token = filters.page(rows, call.params, "ImageIds", smallest=1)
    return {"Images": rows, "NextToken": token}


def _named(call: Call) -> Iterable[Image]:
    ids = call.params.get("ImageIds", [])
    if not ids:
        return [image for image in call.world.images.values() if image.region == call.region]
    found, unknown = [], []
    for id in dict.fromkeys(ids):
        try:
            found.append(call.image(id))
        except EC2Error as error:
            if error.code != "InvalidAMIID.NotFound":
                raise
            # EC2 goes on to know one that was deregistered, and shows nothing of it.
            if id not in call.world.deregistered:
                unknown.append(id)
    if unknown:
        many = len(unknown) > 1
        raise EC2Error(
            "InvalidAMIID.NotFound",
            f"The image {'ids' if many else 'id'} '[{', '.join(unknown)}]' "
            f"{'do' if many else 'does'} not exist",
        )
    return found


def _owner(call: Call, name: str) -> str:
    return {"self": call.account, "amazon": AMAZON}.get(name, name)


def _executable(call: Call, image: Image, user: str) -> bool:
    if user == "all":
        return image.public
    account = call.account if user == "self" else user
    return account in image.users or (user == "self" and image.owner == account)


def describe_image_attribute(call: Call) -> dict[str, Any]:
    image = call.own_image(call.params["ImageId"])
    attribute = call.params["Attribute"]
    launched = image.last_launched(call.world.delays.launch_told)
    values = {
        "description": ("Description", image.description),
        "kernel": ("KernelId", image.kernel),
        "ramdisk": ("RamdiskId", image.ramdisk),
        "sriovNetSupport": ("SriovNetSupport", image.sriov),
        "bootMode": ("BootMode", image.boot_mode),
        "tpmSupport": ("TpmSupport", image.tpm),
        "uefiData": ("UefiData", image.uefi_data),
        "imdsSupport": ("ImdsSupport", image.imds),
        "deregistrationProtection": ("DeregistrationProtection", image.protection),
        "lastLaunchedTime": (
            "LastLaunchedTime",
            iso(launched) if launched else None,
        ),
    }
    answer: dict[str, Any] = {"ImageId": image.id}
    if attribute in values:
        name, value = values[attribute]
        answer[name] = {"Value": value} if value is not None else {}
    elif attribute == "launchPermission":
        answer["LaunchPermissions"] = launch_permissions(image)
    elif attribute == "blockDeviceMapping":
        answer["BlockDeviceMappings"] = image.mappings
    elif attribute == "productCodes":
        answer["ProductCodes"] = []
    else:
        raise invalid(attribute, "attribute", "Unknown attribute.")
    return answer


def launch_permissions(image: Image) -> list[dict[str, str]]:
    permissions = [{"Group": "all"}] if image.public else []
    permissions += [{"UserId": user} for user in sorted(image.users)]
    return permissions + [
        {"OrganizationalUnitArn" if ":ou/" in arn else "OrganizationArn": arn}
        for arn in sorted(image.organizations)
    ]


def deregister_image(call: Call) -> dict[str, Any]:
    id = call.params["ImageId"]
    if id in call.world.deregistered:
        raise EC2Error("InvalidAMIID.Unavailable", f"The image ID '{id}' is no longer available")
    image = call.own_image(id)
    if image.protection.startswith("enabled"):
        raise EC2Error(
            "OperationNotPermitted",
            f"The image '{id}' is protected from being deregistered. Disable its deregistration "
            "protection first.",
        )
    if image.cooldown_until and image.cooldown_until > now():
        raise EC2Error(
            "OperationNotPermitted",
            f"The image '{id}' cannot be deregistered before {iso(image.cooldown_until)}, when the "
            "cooldown period of its deregistration protection ends.",
        )
    call.world.recycle_bin.take_image(image.id, image.name, call.region, call.tags(image))
    call.world.gone("image", image)
    del call.world.images[id]
    call.world.deregistered.add(id)
    results = []
    if call.params.get("DeleteAssociatedSnapshots"):
        for snapshot_id in image.snapshot_ids():
            results.append(_delete_snapshot(call, snapshot_id))
    return {"Return": True, "DeleteSnapshotResults": results}


def _delete_snapshot(call: Call, id: str) -> dict[str, str]:
    if any(id in other.snapshot_ids() for other in call.world.images.values()):
        return {"SnapshotId": id, "ReturnCode": "skipped"}
    snapshot = call.world.snapshots.get(id)
    if snapshot is None or snapshot.owner != call.account:
        return {"SnapshotId": id, "ReturnCode": "missing-permissions"}
    if fault := call.world.faults.completing("SnapshotDeletion", call.region):
        return {"SnapshotId": id, "ReturnCode": fault.message}
    snapshots.delete(call, snapshot)
    return {"SnapshotId": id, "ReturnCode": "success"}


OPERATIONS = {
    "DeregisterImage": deregister_image,
    "DescribeImageAttribute": describe_image_attribute,
    "DescribeImages": describe_images,
}
