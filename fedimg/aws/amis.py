"""Register AMIs from a snapshot, wait for them, and deregister them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fedimg.aws import ami_options, tags
from fedimg.aws.bundle import place
from fedimg.aws.bundle.place import bundle_of
from fedimg.aws.client.already_gone import already_gone
from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.errors import code, missing
from fedimg.aws.client.types import EC2Client, Filter, Image
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import Labels, ami_name
from fedimg.config import AMIs
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI, AMIType, Attributes, Options, RawImage, Virtualization
from fedimg.parallel import run_parallel

ROLE = "ami"
#: A name in use gets the next number; more AMIs with one name than this are a mistake.
_NUMBERS = 100
_NITRO_ONLY = ("BootMode", "TpmSupport", "UefiData")


@dataclass(frozen=True)
class Basis:
    """The source of an image's AMIs in one region.

    `snapshot` is complete; `kernel` is the region's PV-GRUB kernel, without which no PV AMI can be
    registered; `bundle` is the id of the region's bundle, if instance-store AMIs are made.
    """

    image: RawImage
    region: str
    snapshot: str
    kernel: str | None
    attributes: AMIs
    bundle: str = ""

    def of(self, ami_type: AMIType) -> str:
        """Return the id of the snapshot, or of the bundle, that AMIs of a type are made from."""
        return self.bundle if ami_type.instance_store else self.snapshot


def register_all(
    ec2: EC2Client, waiter: Waiter, labels: Labels, ami_types: Sequence[AMIType], basis: Basis
) -> list[AMI]:
    """Register one AMI of each type in parallel, as `register` does.

    An error is raised after the others have ended; a clean-up finds the AMIs of those.
    """
    registered = run_parallel(
        {
            ami_type: partial(register, ec2, waiter, labels, ami_type, basis)
            for ami_type in ami_types
        },
        len(ami_types),
    )
    return list(registered.values())


def register(
    ec2: EC2Client, waiter: Waiter, labels: Labels, ami_type: AMIType, basis: Basis
) -> AMI:
    """Register an AMI from a completed snapshot or a bundle, or return the job's existing one.

    RegisterImage takes no client token; instead the name, which EC2 keeps unique, prevents a second
    AMI. Raises botocore's ClientError when EC2 refuses, EC2ServiceException for PV without a
    kernel.
    """
    chosen = ami_options.options(ami_type, basis.image.architecture, basis.attributes)
    request = _request(ami_type, basis, chosen)
    region, snapshot = basis.region, basis.of(ami_type)
    for number in range(_NUMBERS):
        name = ami_name(basis.image.name, ami_type, region, number)
        try:
            response = waiter.settled(
                lambda name=name: ec2.register_image(  # type: ignore[misc]
                    Name=name,
                    TagSpecifications=labels.specifications(["image"], ROLE, name),
                    **request,
                )
            )
            return AMI(str(response["ImageId"]), name, region, ami_type, snapshot, options=chosen)
        except Exception as error:
            if code(error) != "InvalidAMIName.Duplicate":
                raise
        holder = waiter.until_listed(
            lambda name=name: _holder(ec2, name),  # type: ignore[misc]
            what=f"the AMI with the name {name}",
        )
        if labels.own(holder.get("Tags")) and snapshot in snapshots_of(holder):
            return AMI(str(holder["ImageId"]), name, region, ami_type, snapshot, options=chosen)
    name = ami_name(basis.image.name, ami_type, region, 0)
    raise EC2ServiceException(
        f"{_NUMBERS} AMIs with names like {name} exist already; deregister some"
    )


def available(
    ec2: EC2Client,
    waiter: Waiter,
    amis: Sequence[AMI],
    *,
    limit: float,
    partition: str,
    polling: BatchedPolling | None = None,
) -> list[AMI]:
    """Wait until AMIs of one region can be launched; return them with their attributes.

    `partition` is that of the region; the polls are those of `polling`.
    Raises EC2ServiceException when one fails or takes longer than `limit` seconds.
    """
    ids = sorted(ami.id for ami in amis)

    def judge(images: list[dict[str, Any]]) -> dict[str, Attributes] | None:
        for image in images:
            if image["State"] not in ("pending", "available"):
                reason = image.get("StateReason", {}).get("Message") or "EC2 gives no reason"
                raise EC2ServiceException(
                    f"AMI {image['ImageId']} is {image['State']}: {reason}", later=True
                )
        if any(image["State"] != "available" for image in images):
            return None
        return {str(image["ImageId"]): attributes(image, partition) for image in images}

    described = (polling or BatchedPolling()).images.wait(
        ec2,
        waiter,
        ids,
        judge,
        what=f"AMIs {', '.join(ids)} to become available",
        limit=limit,
    )
    return [replace(ami, attributes=described[ami.id]) for ami in amis]


def attributes(image: Mapping[str, Any], partition: str) -> Attributes:
    """Return the attributes of an AMI that EC2 describes, in a region of this partition."""
    return Attributes(
        partition,
        str(image["OwnerId"]),
        image.get("BootMode"),
        image.get("TpmSupport"),
        image.get("ImdsSupport"),
        bool(image.get("EnaSupport")),
    )


def public(ec2: EC2Client, amis: Sequence[AMI]) -> bool:
    """Return whether all of these AMIs of one region are public already."""
    images = ec2.describe_images(ImageIds=[ami.id for ami in amis])["Images"]
    return len(images) == len(amis) and all(image["Public"] for image in images)


def offered(ec2: EC2Client, amis: Sequence[AMI]) -> bool:
    """Return whether all of these AMIs of one region are public, or marked as shared, already."""
    images = ec2.describe_images(ImageIds=[ami.id for ami in amis])["Images"]
    return len(images) == len(amis) and all(
        image["Public"] or tags.shared_at(tags.read(image.get("Tags"))) is not None
        for image in images
    )


def deregister(ec2: EC2Client, ami: AMI) -> None:
    """Deregister an AMI, keeping its snapshot; one that no longer exists is no error."""
    try:
        ec2.deregister_image(ImageId=ami.id)
    except Exception as error:
        if not already_gone(ec2, ami.id, error):
            raise


def root(ec2: EC2Client, ami: AMI) -> tuple[str, int]:
    """Return the name of an AMI's root device, and the size of its EBS volume in GiB.

    Raises EC2ServiceException when the AMI has been deregistered.
    """
    images = ec2.describe_images(ImageIds=[ami.id])["Images"]
    if not images:
        raise missing(ami.id)
    image = images[0]
    device = str(image["RootDeviceName"])
    sizes = {m["DeviceName"]: m["Ebs"]["VolumeSize"] for m in image["BlockDeviceMappings"]}
    return device, int(sizes[device])


def snapshots_of(image: Mapping[str, Any]) -> set[str]:
    """Return the ids of the snapshots, or the bundle, that a described AMI is made from."""
    if bundle := bundle_of(image):
        return {bundle}
    return {
        mapping["Ebs"].get("SnapshotId", "")
        for mapping in image.get("BlockDeviceMappings", ())
        if "Ebs" in mapping
    }


def made_from(ec2: EC2Client, source: str) -> list[str]:
    """Return the account's AMIs that are made from a snapshot or a bundle, also disabled ones."""
    by_source: Filter = {"Name": "block-device-mapping.snapshot-id", "Values": [source]}
    if place.is_bundle(source):
        by_source = {"Name": "manifest-location", "Values": [place.at(source, "*").location]}
    shown = ec2.describe_images(Owners=["self"], Filters=[by_source], IncludeDisabled=True)
    images = shown["Images"]
    return sorted(str(image["ImageId"]) for image in images if source in snapshots_of(image))


def _request(ami_type: AMIType, basis: Basis, chosen: Options | None) -> dict[str, Any]:
    image, attributes = basis.image, basis.attributes
    # RegisterImage's own defaults are paravirtual and i386.
    hvm = ami_type.virtualization is Virtualization.HVM
    root = "/dev/sda1" if hvm else "/dev/sda"
    request: dict[str, Any] = {
        # Other accounts do not see tags; they can trace an AMI by its description.
        "Description": " ".join(filter(None, (image.build, image.checksum, image.url)))[:255],
        "Architecture": str(image.architecture),
        "VirtualizationType": str(ami_type.virtualization),
        "RootDeviceName": root,
    }
    if ami_type.instance_store:
        request["ImageLocation"] = place.at(basis.bundle, image.name).location
    else:
        request["BlockDeviceMappings"] = [
            {
                "DeviceName": root,
                "Ebs": {
                    "SnapshotId": basis.snapshot,
                    "VolumeType": ami_type.volume_type,
                    "DeleteOnTermination": True,
                    **ami_options.volume(chosen),
                },
            }
        ]
    if not hvm:
        if not basis.kernel:
            # Without a kernel id EC2 would choose one for a disk without partitions.
            raise EC2ServiceException(
                "EC2 did not say which PV-GRUB kernel the region has when the job was planned; "
                "'fedimg retry' looks it up again",
                later=True,
            )
        return request | {"KernelId": basis.kernel}
    given = ami_options.registration(ami_type, image.architecture, attributes)
    if ami_type.instance_store:
        # The old types that boot from a bundle have neither UEFI nor NitroTPM.
        given = {key: value for key, value in given.items() if key not in _NITRO_ONLY}
    return request | given


def _holder(ec2: EC2Client, name: str) -> Image | None:
    images = ec2.describe_images(
        Owners=["self"],
        Filters=[{"Name": "name", "Values": [name]}],
        # A disabled AMI keeps its name.
        IncludeDisabled=True,
    )["Images"]
    return images[0] if images else None
