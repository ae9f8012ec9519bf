"""Instance types that an image is for, its watermarks and its UEFI data, as its owner sets them."""

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from lab.ec2.errors import EC2Error, combination, invalid, missing
from lab.ec2.world import Call, Image, now

#: The most characters of UEFI data, and how its bytes begin.
_UEFI_CHARACTERS, _UEFI_MAGIC = 64000, b"AMZNUEFI"
_MOST_TYPES = 100
_TYPE = re.compile(r"[A-Za-z0-9_.*-]{1,24}")
_WATERMARK = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}")


@dataclass(frozen=True)
class Watermark:
    """A mark that follows an image into what is made of it."""

    key: str
    region: str
    image: str
    created: datetime
    attached: datetime

    def row(self) -> dict[str, Any]:
        """Return the watermark as DescribeImages shows it."""
        return {
            "WatermarkKey": self.key,
            "SourceImageRegion": self.region,
            "SourceImageId": self.image,
            "SourceImageCreationTime": self.created,
            "WatermarkCreationTime": self.attached,
        }


def check_uefi_data(text: str | None, boot_mode: str | None) -> None:
    """Raise EC2Error for UEFI data that RegisterImage does not take."""
    if text is None:
        return
    if boot_mode not in ("uefi", "uefi-preferred"):
        raise combination("UefiData requires a boot mode of uefi or uefi-preferred.")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(text) > _UEFI_CHARACTERS or not data.startswith(_UEFI_MAGIC):
        raise invalid("…", "uefiData", "It is no base64 of a UEFI variable store.")


def replace_types(call: Call) -> dict[str, Any]:
    """Set or remove the instance types that an image is for."""
    image = call.own_image(call.params["ImageId"])
    wanted = call.params.get("InstanceTypeSpecification") or {}
    supported = wanted.get("SupportedInstanceTypes", [])
    unsupported = wanted.get("UnsupportedInstanceTypes", [])
    for name, types in (("supported", supported), ("unsupported", unsupported)):
        if len(types) > _MOST_TYPES:
            raise invalid(len(types), f"{name}InstanceTypes", f"At most {_MOST_TYPES} entries.")
        for each in types:
            if not _TYPE.fullmatch(each) or "**" in each:
                raise invalid(each, f"{name}InstanceTypes")
    if len({*supported, *unsupported}) != len(supported) + len(unsupported):
        raise combination("An instance type is listed more than once.")
    image.types = (tuple(supported), tuple(unsupported))
    return {"ReturnValue": True}


def types_row(image: Image) -> dict[str, list[dict[str, str]]] | None:
    """Return the instance types of an image as DescribeImages shows them."""
    supported, unsupported = image.types
    named = {"SupportedInstanceTypes": supported, "UnsupportedInstanceTypes": unsupported}
    return {
        name: [{"InstanceType": each} for each in types] for name, types in named.items() if types
    } or None


def check_type(image: Image, name: str) -> None:
    """Raise RunInstances' error for an instance type that the image is not for."""
    supported, unsupported = image.types
    fits = not supported or any(fnmatchcase(name, each) for each in supported)
    if not fits or any(fnmatchcase(name, each) for each in unsupported):
        raise combination(
            f"The instance type '{name}' is not compatible with the instance type specification "
            f"of the AMI '{image.id}'."
        )


def attach_watermark(call: Call) -> dict[str, Any]:
    """Attach a watermark to an image that is not public."""
    image = call.own_image(call.params["ImageId"])
    name = call.params.get("WatermarkName")
    if not name:
        raise missing("watermarkName")
    if not _WATERMARK.fullmatch(name):
        raise invalid(name, "watermarkName")
    if image.public:
        raise EC2Error(
            "OperationNotPermitted",
            f"The image '{image.id}' is public: watermarks cannot be attached to public images.",
        )
    key = f"{call.account}:{name}"
    mark = Watermark(key, image.region, image.id, image.created, now())
    image.watermarks = {**image.watermarks, key: mark}
    return {"WatermarkKey": key}


def detach_watermark(call: Call) -> dict[str, Any]:
    """Detach a watermark; one that is not there is no error."""
    image = call.own_image(call.params["ImageId"])
    image.watermarks = {
        key: mark for key, mark in image.watermarks.items() if key != call.params["WatermarkKey"]
    }
    return {"Return": True}


def check_watermarks(image: Image) -> None:
    """Raise the error for an image with watermarks that is to become public."""
    if image.watermarks:
        raise EC2Error(
            "OperationNotPermitted",
            f"The image '{image.id}' has watermarks and cannot be made public.",
        )


OPERATIONS = {
    "AttachImageWatermark": attach_watermark,
    "DetachImageWatermark": detach_watermark,
    "ReplaceImageInstanceTypeSpecification": replace_types,
}
