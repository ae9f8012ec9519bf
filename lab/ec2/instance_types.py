"""The images that boot on each instance type, and the types' zones; the data is moto's."""

from typing import Any

from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES

from lab.ec2 import image_options
from lab.ec2.errors import EC2Error, combination
from lab.ec2.world import Call, Image

# moto has no offerings for the newest regions; they get those of a region of the same generation.
LIKE = "ca-west-1"

PARAVIRTUAL = ("c1", "c3", "m1", "m2", "m3", "t1")


def fill_offerings(regions: tuple[str, ...], zones: dict[str, list[tuple[str, str]]]) -> None:
    """Offer instance types in regions that moto has none for. `zones`: (name, id) by region."""
    for region in regions:
        if INSTANCE_TYPE_OFFERINGS["region"].get(region):
            continue
        types = [offer["InstanceType"] for offer in INSTANCE_TYPE_OFFERINGS["region"][LIKE]]
        places = {
            "region": [region],
            "availability-zone": [name for name, _ in zones[region]],
            "availability-zone-id": [id for _, id in zones[region]],
        }
        for kind, locations in places.items():
            INSTANCE_TYPE_OFFERINGS[kind][region] = [
                {"InstanceType": name, "Location": location}
                for name in types
                for location in locations
            ]


def known(name: str) -> dict[str, Any]:
    """Return DescribeInstanceTypes' entry of a type. Raises InvalidParameterValue for an unknown
    type.
    """
    if name not in INSTANCE_TYPES:
        raise EC2Error("InvalidParameterValue", f"Invalid value '{name}' for InstanceType.")
    found: dict[str, Any] = INSTANCE_TYPES[name]
    return found


def zones_offering(region: str, name: str) -> set[str]:
    return {
        str(offer["Location"])
        for offer in INSTANCE_TYPE_OFFERINGS["availability-zone"].get(region, [])
        if offer["InstanceType"] == name
    }


def check(call: Call, name: str, image: Image) -> None:
    """Raise RunInstances' error for an image that cannot boot on a type."""
    about = known(name)
    if image.type != "machine":
        raise EC2Error("InvalidParameterValue", f"The image {image.id} is not a machine image.")
    if image.manifest and "instance-store" not in about["SupportedRootDeviceTypes"]:
        raise combination(
            f"Instance type '{name}' does not support root device type 'instance-store'."
        )
    architectures = about["ProcessorInfo"]["SupportedArchitectures"]
    if image.architecture not in architectures:
        raise EC2Error(
            "InvalidParameterValue",
            f"The architecture '{','.join(architectures)}' of the specified instance type does "
            f"not match the architecture '{image.architecture}' of the specified AMI. Specify an "
            "instance type and an AMI that have matching architectures, and try again. You can "
            "use 'describe-instance-types' or 'describe-images' to discover the architecture of "
            "the instance type or AMI.",
        )
    supported = set(about["SupportedVirtualizationTypes"])
    if name.split(".")[0] not in PARAVIRTUAL:
        supported.discard("paravirtual")
    if image.virtualization not in supported:
        other = "hvm" if image.virtualization == "paravirtual" else "paravirtual"
        raise combination(
            f"Virtualization type '{other}' is required for instances of type '{name}'. Ensure "
            f"that you are using an AMI with virtualization type '{other}'."
        )
    if about["NetworkInfo"]["EnaSupport"] == "required" and not image.ena:
        raise combination(
            "Enhanced networking with the Elastic Network Adapter (ENA) is required for the "
            f"'{name}' instance type. Ensure that you are using an AMI that is enabled for ENA."
        )
    boot = image.boot_mode or "legacy-bios"
    if boot != "uefi-preferred" and boot not in about["SupportedBootModes"]:
        raise combination(f"Instance type '{name}' does not support boot mode '{boot}'.")
    image_options.check_type(image, name)
    if image.tpm and about.get("NitroTpmSupport") != "supported":
        raise combination(f"Instance type '{name}' does not support NitroTPM.")


def current_boot_mode(name: str, image: Image) -> str:
    if image.boot_mode == "uefi-preferred":
        return "uefi" if "uefi" in known(name)["SupportedBootModes"] else "legacy-bios"
    return image.boot_mode or "legacy-bios"
