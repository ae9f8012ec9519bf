"""Switches of an account (block public access) and an image (deprecated, disabled, protected)."""

from datetime import datetime, timedelta
from typing import Any

from lab.ec2.errors import EC2Error, invalid
from lab.ec2.world import Call, Image, RegionSettings, now


def _settings(call: Call) -> RegionSettings:
    return call.world.settings(call.account, call.region)


def get_image_block(call: Call) -> dict[str, Any]:
    return {
        "ImageBlockPublicAccessState": _settings(call).image_block,
        "ManagedBy": "account",
    }


def enable_image_block(call: Call) -> dict[str, Any]:
    wanted = call.params["ImageBlockPublicAccessState"]
    if wanted != "block-new-sharing":
        raise invalid(wanted, "imageBlockPublicAccessState", "Valid value: block-new-sharing.")
    _settings(call).image_block = wanted
    return {"ImageBlockPublicAccessState": wanted}


def disable_image_block(call: Call) -> dict[str, Any]:
    _settings(call).image_block = "unblocked"
    return {"ImageBlockPublicAccessState": "unblocked"}


def get_snapshot_block(call: Call) -> dict[str, Any]:
    return {"State": _settings(call).snapshot_block, "ManagedBy": "account"}


def enable_snapshot_block(call: Call) -> dict[str, Any]:
    wanted = call.params["State"]
    if wanted not in ("block-all-sharing", "block-new-sharing"):
        raise invalid(wanted, "state", "Valid values: block-all-sharing, block-new-sharing.")
    _settings(call).snapshot_block = wanted
    return {"State": wanted}


def disable_snapshot_block(call: Call) -> dict[str, Any]:
    _settings(call).snapshot_block = "unblocked"
    return {"State": "unblocked"}


def enable_deprecation(call: Call) -> dict[str, Any]:
    image = call.own_image(call.params["ImageId"])
    when = call.params["DeprecateAt"]
    if when <= now():
        raise invalid(when, "deprecateAt", "The date must be in the future.")
    if image.public and when > latest_deprecation(image) + timedelta(minutes=1):
        raise invalid(
            when,
            "deprecateAt",
            "The date of a public AMI must be within two years of the AMI's creation.",
        )
    if when > _years_after(now(), 10):
        raise invalid(when, "deprecateAt", "The date must be within ten years.")
    image.deprecated_at = to_minute(when)
    return {"Return": True}


def to_minute(when: datetime) -> datetime:
    """Return a time as EC2 rounds that of a deprecation."""
    return (when + timedelta(seconds=30)).replace(second=0, microsecond=0)


def latest_deprecation(image: Image) -> datetime:
    """Return when EC2 deprecates an AMI that is public, at the latest."""
    return to_minute(_years_after(image.created, 2))


def _years_after(when: datetime, years: int) -> datetime:
    try:
        return when.replace(year=when.year + years)
    except ValueError:
        return when.replace(year=when.year + years, day=28)


def disable_deprecation(call: Call) -> dict[str, Any]:
    image = call.own_image(call.params["ImageId"])
    if image.public:
        raise EC2Error(
            "OperationNotPermitted",
            f"The deprecation of the public image '{image.id}' cannot be cancelled.",
        )
    image.deprecated_at = None
    return {"Return": True}


def disable_image(call: Call) -> dict[str, Any]:
    image = call.own_image(call.params["ImageId"])
    if image.state != "available":
        raise EC2Error(
            "InvalidAMIID.Unavailable", f"The image ID '{image.id}' is in state {image.state}."
        )
    image.state, image.public, image.users = "disabled", False, set()
    image.organizations = set()
    return {"Return": True}


def enable_image(call: Call) -> dict[str, Any]:
    image = call.own_image(call.params["ImageId"])
    if image.state == "disabled":
        image.state = "available"
    return {"Return": True}


def enable_protection(call: Call) -> dict[str, Any]:
    image = call.own_image(call.params["ImageId"])
    cooldown = call.params.get("WithCooldown")
    image.protection = "enabled-with-cooldown" if cooldown else "enabled-without-cooldown"
    image.cooldown_until = None
    return {"Return": image.protection}


def disable_protection(call: Call) -> dict[str, Any]:
    image = call.own_image(call.params["ImageId"])
    if image.protection == "enabled-with-cooldown":
        image.cooldown_until = now() + timedelta(hours=24)
    image.protection = "disabled"
    return {"Return": image.protection}


OPERATIONS = {
    "DisableImage": disable_image,
    "DisableImageBlockPublicAccess": disable_image_block,
    "DisableImageDeprecation": disable_deprecation,
    "DisableImageDeregistrationProtection": disable_protection,
    "DisableSnapshotBlockPublicAccess": disable_snapshot_block,
    "EnableImage": enable_image,
    "EnableImageBlockPublicAccess": enable_image_block,
    "EnableImageDeprecation": enable_deprecation,
    "EnableImageDeregistrationProtection": enable_protection,
    "EnableSnapshotBlockPublicAccess": enable_snapshot_block,
    "GetImageBlockPublicAccessState": get_image_block,
    "GetSnapshotBlockPublicAccessState": get_snapshot_block,
}
