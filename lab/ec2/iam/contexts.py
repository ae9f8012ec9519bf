"""The condition keys of a resource, by its kind, as IAM evaluates them.

The keys' meanings are the Service Authorization Reference's. What is about to be made has the
keys that its request gives it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lab.ec2.iam.patterns import Context
from lab.ec2.world import AMAZON, Call, Image, Instance, Snapshot, Volume

#: The keys that the lab fills, by kind, as the reference spells them.
FILLED = {
    "instance": {
        "ec2:AvailabilityZone",
        "ec2:EbsOptimized",
        "ec2:InstanceID",
        "ec2:InstanceMarketType",
        "ec2:InstanceProfile",
        "ec2:InstanceType",
        "ec2:MetadataHttpEndpoint",
        "ec2:MetadataHttpPutResponseHopLimit",
        "ec2:MetadataHttpTokens",
        "ec2:RootDeviceType",
        "ec2:Tenancy",
    },
    "volume": {
        "ec2:AvailabilityZone",
        "ec2:Encrypted",
        "ec2:ParentSnapshot",
        "ec2:VolumeID",
        "ec2:VolumeIops",
        "ec2:VolumeSize",
        "ec2:VolumeThroughput",
        "ec2:VolumeType",
    },
    "snapshot": {
        "ec2:Add/group",
        "ec2:Add/userId",
        "ec2:Encrypted",
        "ec2:Owner",
        "ec2:ParentVolume",
        "ec2:Remove/group",
        "ec2:Remove/userId",
        "ec2:SnapshotID",
        "ec2:SnapshotTime",
        "ec2:VolumeSize",
    },
    "image": {
        "ec2:ImageID",
        "ec2:ImageType",
        "ec2:Owner",
        "ec2:Public",
        "ec2:RootDeviceType",
    },
    "network-interface": {"ec2:AssociatePublicIpAddress", "ec2:Subnet", "ec2:Vpc"},
    "subnet": {"ec2:AvailabilityZone", "ec2:SubnetID", "ec2:Vpc"},
    "security-group": {"ec2:SecurityGroupID", "ec2:Vpc"},
    "vpc": {"ec2:VpcID"},
    "key-pair": {"ec2:KeyPairName", "ec2:KeyPairType"},
    # Of the request, whatever it touches.
    "": {
        "ec2:CreateAction",
        "ec2:Region",
        "ebs:Description",
        "ebs:ParentSnapshot",
        "ebs:VolumeSize",
        "iam:PermissionsBoundary",
        "iam:PolicyARN",
        "kms:CallerAccount",
        "kms:GrantIsForAWSResource",
        "kms:ViaService",
        "sts:ExternalId",
        "sts:RoleSessionName",
    },
}


def context(values: Mapping[str, Any]) -> Context:
    """Condition keys as conditions see them; what is None or empty is not there."""
    return {
        key.lower(): tuple(_text(each) for each in (value if isinstance(value, list) else [value]))
        for key, value in values.items()
        if value not in (None, [], "")
    }


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def arn(call: Call, kind: str, id: str) -> str:
    """Return a resource's ARN; snapshots and images name no account."""
    account = "" if kind in ("snapshot", "image") else call.account
    return f"arn:{call.partition}:ec2:{call.region}:{account}:{kind}/{id}"


def existing(call: Call, kind: str, id: str) -> dict[str, Any]:
    """Return the condition keys of a resource; one that does not exist has its id alone."""
    describe = _EXISTING.get(kind)
    return describe(call, id) if describe else {}


def tags(call: Call, kind: str, id: str) -> Mapping[str, str]:
    """Return the tags that count for the caller: an account knows those of its own resources."""
    if kind in ("snapshot", "image"):
        thing = (call.world.snapshots if kind == "snapshot" else call.world.images).get(id)
        if thing is None or thing.owner != call.account:
            return {}
    if kind == "key-pair":
        pair = call.moto.key_pairs.get(id)
        id = pair.id if pair else id
    return call.world.tags(call.account, call.region, id)


def made(call: Call, kind: str) -> Iterator[dict[str, Any]]:
    """Return the condition keys of each resource that the call makes, as the request says."""
    params = call.params
    if call.action == "RunInstances" and kind == "instance":
        yield _instance_to_be(call)
    elif call.action == "RunInstances" and kind == "volume":
        yield from _volumes_to_be(call)
    elif call.action == "CreateVolume" and kind == "volume":
        yield _volume_to_be(call, params)
    elif kind == "network-interface":
        for interface in params.get("NetworkInterfaces") or [params]:
            yield {
                "ec2:AssociatePublicIpAddress": interface.get("AssociatePublicIpAddress"),
                "ec2:Subnet": _named(call, "subnet", interface.get("SubnetId")),
            }
    elif kind == "snapshot":
        yield {"ec2:ParentVolume": _named(call, "volume", params.get("VolumeId"))}
    elif kind == "key-pair":
        yield {"ec2:KeyPairName": params.get("KeyName"), "ec2:KeyPairType": params.get("KeyType")}
    else:
        yield {}


def _instance_to_be(call: Call) -> dict[str, Any]:
    params = call.params
    image = call.world.images.get(params.get("ImageId", ""))
    metadata, profile = params.get("MetadataOptions", {}), params.get("IamInstanceProfile", {})
    name = profile.get("Name")
    return {
        "ec2:AvailabilityZone": params.get("Placement", {}).get("AvailabilityZone"),
        "ec2:EbsOptimized": bool(params.get("EbsOptimized")),
        "ec2:InstanceMarketType": params.get("InstanceMarketOptions", {}).get(
            "MarketType", "on-demand"
        ),
        "ec2:InstanceProfile": profile.get("Arn")
        or (f"arn:{call.partition}:iam::{call.account}:instance-profile/{name}" if name else None),
        "ec2:InstanceType": params.get("InstanceType", "m1.small"),
        "ec2:MetadataHttpEndpoint": metadata.get("HttpEndpoint"),
        "ec2:MetadataHttpPutResponseHopLimit": metadata.get("HttpPutResponseHopLimit"),
        "ec2:MetadataHttpTokens": metadata.get(
            "HttpTokens", "required" if image and image.imds == "v2.0" else "optional"
        ),
        "ec2:RootDeviceType": image.root_device_type if image else "ebs",
        "ec2:Tenancy": params.get("Placement", {}).get("Tenancy", "default"),
    }


def _volumes_to_be(call: Call) -> Iterator[dict[str, Any]]:
    image = call.world.images.get(call.params.get("ImageId", ""))
    devices = (
        {m["DeviceName"]: dict(m["Ebs"]) for m in image.mappings if "Ebs" in m} if image else {}
    )
    for mapping in call.params.get("BlockDeviceMappings", []):
        device = mapping.get("DeviceName")
        if "NoDevice" in mapping:
            devices.pop(device, None)
        elif "Ebs" in mapping:
            devices[device] = {**devices.get(device, {}), **mapping["Ebs"]}
    for ebs in devices.values():
        yield _volume_to_be(call, ebs)


def _volume_to_be(call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
    # CreateVolume's names are those of a block device mapping, but for the size.
    return {
        "ec2:AvailabilityZone": given.get("AvailabilityZone"),
        "ec2:Encrypted": bool(given.get("Encrypted")),
        "ec2:ParentSnapshot": _named(call, "snapshot", given.get("SnapshotId")),
        "ec2:VolumeIops": given.get("Iops"),
        "ec2:VolumeSize": given.get("VolumeSize", given.get("Size")),
        "ec2:VolumeThroughput": given.get("Throughput"),
        "ec2:VolumeType": given.get("VolumeType", "gp2"),
    }


def _named(call: Call, kind: str, id: str | None) -> str | None:
    return arn(call, kind, id) if id else None


def _instance(call: Call, id: str) -> dict[str, Any]:
    found: Instance | None = call.world.instances.get(id)
    if found is None:
        return {"ec2:InstanceID": id}
    return {
        "ec2:InstanceID": id,
        "ec2:AvailabilityZone": found.zone,
        "ec2:EbsOptimized": found.ebs_optimized,
        "ec2:InstanceMarketType": "spot" if found.spot else "on-demand",
        "ec2:InstanceProfile": found.profile["Arn"] if found.profile else None,
        "ec2:InstanceType": found.type,
        "ec2:MetadataHttpEndpoint": found.metadata["HttpEndpoint"],
        "ec2:MetadataHttpPutResponseHopLimit": found.metadata["HttpPutResponseHopLimit"],
        "ec2:MetadataHttpTokens": found.metadata["HttpTokens"],
        "ec2:RootDeviceType": found.image.root_device_type,
        "ec2:Tenancy": found.tenancy,
    }


def _volume(call: Call, id: str) -> dict[str, Any]:
    found: Volume | None = call.world.volumes.get(id)
    if found is None:
        return {"ec2:VolumeID": id}
    return {
        "ec2:VolumeID": id,
        "ec2:AvailabilityZone": found.zone,
        "ec2:Encrypted": found.encrypted,
        "ec2:ParentSnapshot": _named(call, "snapshot", found.snapshot_id),
        "ec2:VolumeIops": found.iops,
        "ec2:VolumeSize": found.size,
        "ec2:VolumeThroughput": found.throughput,
        "ec2:VolumeType": found.type,
    }


def _snapshot(call: Call, id: str) -> dict[str, Any]:
    found: Snapshot | None = call.world.snapshots.get(id)
    sharing = call.action in ("ModifySnapshotAttribute", "ResetSnapshotAttribute")
    asked = _sharing(call.params) if sharing else {}
    if found is None:
        return {"ec2:SnapshotID": id, **asked}
    return {
        "ec2:SnapshotID": id,
        "ec2:Encrypted": found.encrypted,
        "ec2:Owner": _owner(found.owner),
        "ec2:ParentVolume": _named(call, "volume", found.volume_id),
        "ec2:SnapshotTime": found.started.isoformat(),
        "ec2:VolumeSize": found.size,
        **asked,
    }


def _sharing(params: Mapping[str, Any]) -> dict[str, Any]:
    given = params.get("CreateVolumePermission")
    if given is None:
        items = [{"UserId": user} for user in params.get("UserIds", [])]
        items += [{"Group": group} for group in params.get("GroupNames", [])]
        given = {str(params.get("OperationType")).title(): items}
    return {
        f"ec2:{change}/{name}": [item[field] for item in given.get(change, []) if field in item]
        for change in ("Add", "Remove")
        for name, field in (("group", "Group"), ("userId", "UserId"))
    }


def _image(call: Call, id: str) -> dict[str, Any]:
    found: Image | None = call.world.images.get(id)
    if found is None:
        return {"ec2:ImageID": id}
    return {
        "ec2:ImageID": id,
        "ec2:ImageType": found.type,
        "ec2:Owner": _owner(found.owner),
        "ec2:Public": found.public,
        "ec2:RootDeviceType": found.root_device_type,
    }


def _owner(account: str) -> str:
    return "amazon" if account == AMAZON else account


def _subnet(call: Call, id: str) -> dict[str, Any]:
    for by_id in list(call.moto.subnets.values()):
        if id in by_id:
            found = by_id[id]
            return {
                "ec2:SubnetID": id,
                "ec2:AvailabilityZone": found.availability_zone,
                "ec2:Vpc": _named(call, "vpc", found.vpc_id),
            }
    return {"ec2:SubnetID": id}


def _group(call: Call, id: str) -> dict[str, Any]:
    found = call.moto.get_security_group_from_id(id)
    vpc = found.vpc_id if found else None
    return {"ec2:SecurityGroupID": id, "ec2:Vpc": _named(call, "vpc", vpc)}


_EXISTING: dict[str, Callable[[Call, str], dict[str, Any]]] = {
    "image": _image,
    "instance": _instance,
    "security-group": _group,
    "snapshot": _snapshot,
    "subnet": _subnet,
    "volume": _volume,
    "vpc": lambda call, id: {"ec2:VpcID": id},
    "key-pair": lambda call, id: {"ec2:KeyPairName": id},
}
