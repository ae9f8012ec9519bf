"""The accounts, or everybody, that may launch an image or make volumes of a snapshot."""

import re
from functools import partial
from typing import Any

from lab.ec2 import image_options, kms_keys
from lab.ec2.errors import EC2Error, combination, invalid, missing
from lab.ec2.settings import latest_deprecation
from lab.ec2.world import Call, Image, Snapshot

ACCOUNT = re.compile(r"\d{12}")
#: The most permissions that one call may change of a snapshot.
MOST_OF_A_SNAPSHOT = 500
#: What an ARN of Organizations looks like, behind its partition, for each field of a permission.
_ORGANIZATION = r"organizations::\d{12}:organization/o-[a-z0-9]{10,32}"
_UNIT = r"organizations::\d{12}:ou/o-[a-z0-9]{10,32}/ou-[0-9a-z]{4,32}-[0-9a-z]{8,32}"
_ARNS = {"OrganizationArn": _ORGANIZATION, "OrganizationalUnitArn": _UNIT}


def modify_image_attribute(call: Call) -> dict[str, Any]:
    params = call.params
    image = call.own_image(params["ImageId"])
    if image.state != "available":
        raise EC2Error(
            "InvalidAMIID.Unavailable", f"The image ID '{image.id}' is in state {image.state}."
        )
    attribute = params.get("Attribute")
    if attribute == "description" or "Description" in params:
        text = params.get("Description", {}).get("Value", params.get("Value"))
        if text is None:
            raise missing("value")
        image.description = text
    elif attribute == "imdsSupport" or "ImdsSupport" in params:
        value = params.get("ImdsSupport", {}).get("Value", params.get("Value"))
        if value != "v2.0":
            raise invalid(value, "imdsSupport", "Valid value: v2.0.")
        image.imds = value
    elif attribute == "launchPermission" or "LaunchPermission" in params:
        _modify_launch_permission(call, image)
    elif "ProductCodes" in params or attribute == "productCodes":
        raise EC2Error("UnsupportedOperation", "Product codes are for sellers on the Marketplace.")
    else:
        raise combination("No attributes specified.")
    return {}


def _modify_launch_permission(call: Call, image: Image) -> None:
    add, remove = _changes(call, "LaunchPermission", "UserGroups")
    if add.users or add.organizations:
        _check_shareable(call, image)
        entities = image.users | image.organizations | add.users | add.organizations
        most = call.world.quotas.image_sharing
        if len(entities) > most:
            raise EC2Error(
                "ResourceLimitExceeded",
                f"You have reached your quota of {most} for the number of organizations, "
                "organizational units and accounts that an image can be shared with.",
            )
    if add.groups:
        _check_public(call, image)
        if not image.public:
            # EC2 deprecates every public AMI by itself, and keeps an earlier date.
            latest = latest_deprecation(image)
            image.deprecated_at = min(image.deprecated_at or latest, latest)
    image.public = (image.public or add.groups) and not remove.groups
    image.users = (image.users | add.users) - remove.users
    image.organizations = (image.organizations | add.organizations) - remove.organizations


def _check_shareable(call: Call, image: Image) -> None:
    for id in image.snapshot_ids():
        snapshot = call.world.snapshots.get(id)
        if snapshot and kms_keys.is_aws_managed(call, snapshot.kms_key):
            raise EC2Error(
                "InvalidParameter",
                f"The image {image.id} is backed by a snapshot that is encrypted with the default "
                "key of EBS and cannot be shared.",
            )


def _check_public(call: Call, image: Image) -> None:
    image_options.check_watermarks(image)
    if call.world.settings(call.account, call.region).image_block != "unblocked":
        raise EC2Error(
            "OperationNotPermitted",
            "You can't publicly share this image because block public access for AMIs is enabled "
            "for this account in this Region.",
        )
    if any(m.get("Ebs", {}).get("Encrypted") for m in image.mappings):
        raise EC2Error(
            "InvalidParameter",
            f"The image {image.id} is backed by an encrypted snapshot and cannot be made public.",
        )
    quota = call.world.quotas.public(call.region)
    shared = sum(
        1
        for other in call.world.images.values()
        if other.public and other.owner == call.account and other.region == call.region
    )
    if not image.public and shared >= quota:
        raise EC2Error(
            "ResourceLimitExceeded",
            f"You have reached your quota of {quota} for the number of public images allowed in "
            "this Region. Deregister unused public images or request an increase in your public "
            "images quota.",
        )


class _Change:
    """The accounts and groups of one list of permissions."""

    def __init__(self, partition: str, items: list[dict[str, str]]) -> None:
        self.groups = False
        self.users: set[str] = set()
        self.organizations: set[str] = set()
        for item in items:
            if "Group" in item:
                if item["Group"] != "all":
                    raise _bad(item["Group"], "userGroup")
                self.groups = True
            if "UserId" in item:
                if not ACCOUNT.fullmatch(item["UserId"]):
                    raise _bad(item["UserId"], "userId")
                self.users.add(item["UserId"])
            for name, form in _ARNS.items():
                if name in item:
                    if not re.fullmatch(f"arn:{partition}:{form}", item[name]):
                        raise _bad(item[name], name[0].lower() + name[1:])
                    self.organizations.add(item[name])


def _bad(value: str, kind: str) -> EC2Error:
    return EC2Error(
        "InvalidAMIAttributeItemValue",
        f'Invalid attribute item value "{value}" for {kind} item type.',
    )


def _changes(call: Call, structure: str, groups: str) -> tuple[_Change, _Change]:
    """Return the permissions to add and to remove; EC2 lets a caller give them in two ways."""
    params = call.params
    change = partial(_Change, call.partition)
    given = params.get(structure)
    if given is not None:
        return change(given.get("Add", [])), change(given.get("Remove", []))
    items = [{"UserId": user} for user in params.get("UserIds", [])]
    items += [{"Group": group} for group in params.get(groups, [])]
    for name in _ARNS:
        items += [{name: arn} for arn in params.get(f"{name}s", [])]
    operation = params.get("OperationType")
    if operation not in ("add", "remove"):
        raise invalid(operation, "operationType", "Valid values: add, remove.")
    if not items:
        raise combination("No users or groups specified.")
    if operation == "add":
        return change(items), change([])
    return change([]), change(items)


def reset_image_attribute(call: Call) -> dict[str, Any]:
    image = call.own_image(call.params["ImageId"])
    if call.params["Attribute"] != "launchPermission":
        raise invalid(call.params["Attribute"], "attribute", "Only launchPermission can be reset.")
    image.public, image.users, image.organizations = False, set(), set()
    return {}


def cancel_image_launch_permission(call: Call) -> dict[str, Any]:
    """Remove the caller's own launch permission for another account's image."""
    image = call.image(call.params["ImageId"])
    image.users.discard(call.account)
    return {"Return": True}


def modify_snapshot_attribute(call: Call) -> dict[str, Any]:
    snapshot = call.own_snapshot(call.params["SnapshotId"])
    if call.params.get("Attribute", "createVolumePermission") != "createVolumePermission":
        raise invalid(call.params["Attribute"], "attribute")
    add, remove = _changes(call, "CreateVolumePermission", "GroupNames")
    if add.organizations or remove.organizations:
        raise combination("A snapshot has no permissions of organizations.")
    if (add.users or add.groups) and (remove.users or remove.groups):
        raise combination("Permissions of a snapshot are added or removed, not both in one call.")
    if len(add.users) + len(remove.users) > MOST_OF_A_SNAPSHOT:
        raise combination(
            f"At most {MOST_OF_A_SNAPSHOT} permissions of a snapshot are changed in one call."
        )
    if add.groups:
        _check_public_snapshot(call, snapshot)
    if add.users and snapshot.encrypted and kms_keys.is_aws_managed(call, snapshot.kms_key):
        raise EC2Error(
            "InvalidParameter", "Encrypted snapshots with EBS default key cannot be shared"
        )
    snapshot.public = (snapshot.public or add.groups) and not remove.groups
    snapshot.users = (snapshot.users | add.users) - remove.users
    return {}


def _check_public_snapshot(call: Call, snapshot: Snapshot) -> None:
    if call.world.settings(call.account, call.region).snapshot_block != "unblocked":
        raise EC2Error(
            "OperationNotPermitted",
            "You can't publicly share this snapshot because block public access for snapshots is "
            "enabled for this account in this Region.",
        )
    if snapshot.encrypted:
        raise EC2Error("InvalidParameter", "Encrypted snapshots cannot be shared publicly")


def describe_snapshot_attribute(call: Call) -> dict[str, Any]:
    snapshot = call.own_snapshot(call.params["SnapshotId"])
    if call.params["Attribute"] == "productCodes":
        return {"SnapshotId": snapshot.id, "ProductCodes": []}
    if call.params["Attribute"] != "createVolumePermission":
        raise invalid(call.params["Attribute"], "attribute")
    permissions = [{"Group": "all"}] if snapshot.public else []
    permissions += [{"UserId": user} for user in sorted(snapshot.users)]
    return {"SnapshotId": snapshot.id, "CreateVolumePermissions": permissions}


def reset_snapshot_attribute(call: Call) -> dict[str, Any]:
    snapshot = call.own_snapshot(call.params["SnapshotId"])
    if call.params["Attribute"] != "createVolumePermission":
        raise invalid(call.params["Attribute"], "attribute")
    snapshot.public, snapshot.users = False, set()
    return {}


OPERATIONS = {
    "CancelImageLaunchPermission": cancel_image_launch_permission,
    "DescribeSnapshotAttribute": describe_snapshot_attribute,
    "ModifyImageAttribute": modify_image_attribute,
    "ModifySnapshotAttribute": modify_snapshot_attribute,
    "ResetImageAttribute": reset_image_attribute,
    "ResetSnapshotAttribute": reset_snapshot_attribute,
}
