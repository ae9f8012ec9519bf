"""Tags given at creation, and CreateTags and DeleteTags; the tags themselves are kept by moto."""

from typing import Any

from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, is_valid_resource_id

from lab.ec2.errors import EC2Error, invalid, missing
from lab.ec2.world import Call, Tags

MOST = 50


def given(call: Call, *allowed: str) -> dict[str, Tags]:
    """TagSpecifications of a call, by resource type; every allowed type has an entry.

    Raises InvalidParameterValue for a type that the action does not make, and what EC2 raises for
    too many tags, and for keys and values that are too long or reserved.
    """
    found: dict[str, Tags] = {kind: {} for kind in allowed}
    seen: set[str] = set()
    for specification in call.params.get("TagSpecifications", []):
        kind = specification.get("ResourceType")
        if not kind:
            raise EC2Error("InvalidParameter", "Tag specification resource type must have a value")
        if kind not in allowed:
            raise EC2Error(
                "InvalidParameterValue",
                f"'{kind}' is not a valid taggable resource type for this operation.",
            )
        if kind in seen:
            raise EC2Error(
                "InvalidParameterValue",
                f"The same resource type may not be specified more than once: {kind}",
            )
        seen.add(kind)
        if not specification.get("Tags"):
            raise EC2Error("InvalidParameter", "Tag specification must have at least one tag")
        found[kind] = as_tags(specification["Tags"])
    return found


def as_tags(pairs: list[dict[str, str]]) -> Tags:
    """Key and value pairs as a dictionary, once they keep to EC2's rules."""
    tags: Tags = {}
    for pair in pairs:
        key, value = pair.get("Key"), pair.get("Value", "")
        if not key:
            raise EC2Error("InvalidParameterValue", "Tag key cannot be null or empty.")
        if len(key) > 128:
            raise EC2Error("InvalidParameterValue", f"Tag key exceeds the maximum of 128: {key}")
        if len(value) > 256:
            raise EC2Error(
                "InvalidParameterValue", f"Tag value exceeds the maximum of 256: {value}"
            )
        if key.lower().startswith("aws:"):
            raise EC2Error(
                "InvalidParameterValue",
                "Tag keys starting with 'aws:' are reserved for internal use",
            )
        if key in tags:
            raise EC2Error("InvalidParameterValue", f"Duplicate tag key '{key}' specified.")
        tags[key] = value
    if len(tags) > MOST:
        raise EC2Error("TagLimitExceeded", f"The maximum number of tags is {MOST}")
    return tags


def create_tags(call: Call) -> dict[str, Any]:
    ids = _resources(call)
    if not call.params.get("Tags"):
        raise missing("Tag")
    tags = as_tags(call.params["Tags"])
    for id in ids:
        if len(call.moto.tags.get(id, {}).keys() | tags.keys()) > MOST:
            raise EC2Error("TagLimitExceeded", f"The maximum number of tags is {MOST}")
    for id in ids:
        call.world.tag(call.account, call.region, id, tags)
    return {}


def delete_tags(call: Call) -> dict[str, Any]:
    for id in _resources(call):
        held = call.moto.tags.get(id, {})
        if "Tags" not in call.params:
            held.clear()
        for pair in call.params.get("Tags", []):
            key = pair.get("Key")
            if "Value" not in pair or held.get(key) == pair["Value"]:
                held.pop(key, None)
    return {}


def _resources(call: Call) -> list[str]:
    ids: list[str] = call.params.get("Resources", [])
    if not ids:
        raise missing("resourceIdSet")
    if len(ids) > 1000:
        raise invalid(len(ids), "resourceIdSet", "At most 1000 resources.")
    for id in ids:
        match id.split("-")[0]:
            case "ami":
                call.own_image(id)
            case "snap":
                call.own_snapshot(id)
            case "vol":
                call.volume(id)
            case "i":
                call.instance(id)
            case prefix if prefix in EC2_PREFIX_TO_RESOURCE and is_valid_resource_id(id):
                call.moto.do_resources_exist([id])
            case _:
                raise EC2Error("InvalidID", f"The ID '{id}' is not valid")
    return ids


OPERATIONS = {"CreateTags": create_tags, "DeleteTags": delete_tags}
