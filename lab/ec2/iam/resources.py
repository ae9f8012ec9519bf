"""The resources that a call touches: those it names, those it makes, those that EC2 chooses."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lab.ec2 import launching, network
from lab.ec2.errors import EC2Error
from lab.ec2.iam import contexts
from lab.ec2.iam.reference import Kind, kinds
from lab.ec2.world import Call

_ID = re.compile(r"([a-z]+)-[0-9a-f]{8,17}")
_PREFIXES = {
    "acl": "network-acl",
    "aki": "image",
    "ami": "image",
    "ari": "image",
    "dopt": "dhcp-options",
    "eni": "network-interface",
    "i": "instance",
    "igw": "internet-gateway",
    "lt": "launch-template",
    "nat": "natgateway",
    "rtb": "route-table",
    "sg": "security-group",
    "sgr": "security-group-rule",
    "snap": "snapshot",
    "subnet": "subnet",
    "vol": "volume",
    "vpc": "vpc",
}
# Ids below these say what is to be found, who is let in, or what boots, and not what is acted on.
_NOT_ACTED_ON = {"Filters", "IpPermissions", "KernelId", "RamdiskId", "TagSpecifications"}
# Made beside another of the same kind, or though the reference calls the kind optional.
_MADE = {
    "CopyImage": {"image"},
    "CopySnapshot": {"snapshot"},
    "RunInstances": {"volume"},
}
_TAGGING = ("CreateTags", "DeleteTags")
# Whose name is the name of what they make.
_NAMING = ("CreateSecurityGroup",)


@dataclass(frozen=True)
class Resource:
    """`new` is what the call makes; its ARN ends with an asterisk, as it has no id yet."""

    kind: str
    arn: str
    keys: Mapping[str, Any]
    new: bool = False


def touched(call: Call) -> list[Resource]:
    """Return the resources of an EC2 call, in the order in which they are judged; under the lock.

    An action that has no resource-level permissions acts on `*` alone.
    """
    known = {name: kind for name, kind in kinds(f"ec2:{call.action}").items() if name}
    if not known:
        return [Resource("", "*", {})]
    call = launching.with_template(call) if call.action == "RunInstances" else call
    named: dict[str, list[tuple[Call, str]]] = {}
    for there, kind, id in _named(call):
        if (there, id) not in named.setdefault(kind, []):
            named[kind].append((there, id))
    found = [
        resource for name, kind in known.items() for resource in _of_kind(call, name, kind, named)
    ]
    return found or [Resource("", "*", {})]


def _of_kind(
    call: Call, name: str, kind: Kind, named: Mapping[str, list[tuple[Call, str]]]
) -> Iterator[Resource]:
    ids = named.get(name, [])
    for there, id in ids:
        keys = contexts.existing(there, name, id) | tags_of(there, name, id)
        if call.action in _TAGGING:
            keys |= asked_for(call.params.get("Tags", []))
        yield Resource(name, contexts.arn(there, name, id), keys)
    given = {
        each["ResourceType"]: each.get("Tags", [])
        for each in call.params.get("TagSpecifications", [])
        if "ResourceType" in each
    }
    if name in _MADE.get(call.action, ()) or name in given or (kind.required and not ids):
        id = call.params.get("KeyName", "*") if name == "key-pair" else "*"
        for keys in contexts.made(call, name):
            yield Resource(
                name,
                contexts.arn(call, name, id),
                keys | asked_for(given.get(name, [])),
                new=True,
            )


def asked_for(tags: list[dict[str, str]]) -> dict[str, Any]:
    """Return the condition keys of the tags that a request gives."""
    keys: dict[str, Any] = {
        f"aws:RequestTag/{tag['Key']}": tag.get("Value", "") for tag in tags if "Key" in tag
    }
    return keys | {"aws:TagKeys": [tag["Key"] for tag in tags if "Key" in tag]}


def tags_of(call: Call, kind: str, id: str) -> dict[str, Any]:
    return {
        f"{service}:ResourceTag/{key}": value
        for key, value in contexts.tags(call, kind, id).items()
        for service in ("aws", "ec2")
    }


def _named(call: Call) -> Iterator[tuple[Call, str, str]]:
    """Yield the region, kind and id of each resource that a request names."""
    params = call.params
    for name, value in params.items():
        # What is copied is where it was made.
        away = name in ("SourceSnapshotId", "SourceImageId") and "SourceRegion" in params
        there = replace(call, region=params["SourceRegion"]) if away else call
        for id in _ids(name, value):
            yield there, _PREFIXES[id.rsplit("-", 1)[0]], id
    if call.action == "RunInstances":
        yield from _chosen(call)
    elif call.action not in _NAMING:
        yield from _by_name(call)
    if "KeyName" in params and call.action not in ("CreateKeyPair", "ImportKeyPair"):
        yield call, "key-pair", params["KeyName"]
    for pair in list(call.moto.key_pairs.values()):
        if pair.id == params.get("KeyPairId"):
            yield call, "key-pair", pair.key_name


def _ids(name: str, value: Any) -> Iterator[str]:
    if name in _NOT_ACTED_ON:
        return
    if isinstance(value, str):
        found = _ID.fullmatch(value)
        if found and found[1] in _PREFIXES:
            yield value
    elif isinstance(value, list):
        for each in value:
            yield from _ids(name, each)
    elif isinstance(value, dict):
        for inner, each in value.items():
            yield from _ids(inner, each)


def _chosen(call: Call) -> Iterator[tuple[Call, str, str]]:
    """Return the subnet and the groups of a launch; EC2 chooses them where the request does not."""
    try:
        at = network.place(call, call.params.get("InstanceType", "m1.small"))
    except EC2Error:
        # There is no such place, which the launch itself says when the rest is allowed.
        return
    yield call, "subnet", at.subnet
    for group in at.groups:
        yield call, "security-group", group


def _by_name(call: Call) -> Iterator[tuple[Call, str, str]]:
    """Security groups of the default VPC may be called by their names."""
    names = [call.params["GroupName"]] if "GroupName" in call.params else []
    for name in [*names, *call.params.get("GroupNames", [])]:
        vpc = call.moto.default_vpc
        group = call.moto.get_security_group_from_name(name, vpc.id if vpc else None)
        if group:
            yield call, "security-group", group.id
