"""RunInstances: everything is checked before anything is made, then volumes, then instances."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from moto.core.exceptions import ServiceException
from moto.ec2.utils import filter_iam_instance_profiles

from lab.ec2 import (
    bundles,
    instance_rows,
    instance_types,
    instances,
    kms_keys,
    network,
    volume_types,
    volumes,
)
from lab.ec2.errors import EC2Error, combination, invalid, missing
from lab.ec2.tagging import given
from lab.ec2.world import Attachment, Call, Image, Instance, Snapshot, Tags, Volume, new_id, now

USER_DATA = 16384  # bytes, before base64


@dataclass(frozen=True)
class _Device:
    name: str
    shape: volume_types.Shape
    snapshot: Snapshot | None
    delete_on_termination: bool
    encrypted: bool
    kms_key: str | None
    key_problem: str


@dataclass(frozen=True)
class _Plan:
    image: Image
    type: str
    at: network.Place
    devices: list[_Device]
    count: int
    user_data: bytes
    public_key: str | None
    profile: dict[str, str] | None
    tags: dict[str, Tags]


def run_instances(call: Call) -> dict[str, Any]:
    call = with_template(call)
    world = call.world

    def launch() -> str:
        with world.lock:
            plan = _plan(call)
        reservation = new_id("r")
        for index in range(plan.count):
            _launch(call, plan, reservation, index)
        return reservation

    scope = (call.account, call.region, call.action)
    reservation = world.tokens.once(scope, call.params, launch)
    with world.lock:
        return instance_rows.reservation_row(call, reservation)


def with_template(call: Call) -> Call:
    """Return the call with the launch template's parameters wherever the call gives none."""
    wanted = call.params.get("LaunchTemplate")
    if not wanted:
        return call
    data = _given(call.moto._get_template_from_args(wanted).data)
    own = {name: value for name, value in call.params.items() if name != "LaunchTemplate"}
    return replace(call, params={**data, **own})


def _given(value: Any) -> Any:
    """Return a template's data without the empty values that moto puts where none was given."""
    if isinstance(value, dict):
        return {key: _given(inner) for key, inner in value.items() if inner not in (None, {})}
    if isinstance(value, list):
        return [_given(inner) for inner in value]
    return value


def _plan(call: Call) -> _Plan:
    params = call.params
    tags = given(call, "instance", "volume", "network-interface", "spot-instances-request")
    if not params.get("ImageId"):
        raise missing("ImageId")
    least, most = params["MinCount"], params["MaxCount"]
    if least < 1:
        raise invalid(least, "minCount", "It must be at least 1.")
    if most < least:
        raise combination("Maximum instance count must not be smaller than minimum instance count")
    image = call.image(params["ImageId"])
    if image.state != "available":
        raise EC2Error(
            "InvalidAMIID.Unavailable", f"The image ID '{image.id}' is in state {image.state}."
        )
    kind = params.get("InstanceType", "m1.small")
    instance_types.check(call, kind, image)
    if image.manifest and "InstanceInitiatedShutdownBehavior" in params:
        raise combination(
            "The attribute instanceInitiatedShutdownBehavior can only be used for EBS-backed "
            "images."
        )
    shutdown = params.get("InstanceInitiatedShutdownBehavior", "stop")
    if shutdown not in ("stop", "terminate"):
        raise invalid(shutdown, "instanceInitiatedShutdownBehavior")
    return _Plan(
        image,
        kind,
        network.place(call, kind),
        _devices(call, image),
        most,
        _user_data(params.get("UserData", "")),
        _public_key(call),
        _profile(call),
        tags,
    )


def _user_data(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError):
        raise EC2Error("InvalidParameterValue", "Invalid BASE64 encoding of user data.") from None
    if len(data) > USER_DATA:
        raise EC2Error("InvalidParameterValue", f"User data is limited to {USER_DATA} bytes")
    return data


def _public_key(call: Call) -> str | None:
    name = call.params.get("KeyName")
    if not name:
        return None
    pair = call.moto.key_pairs.get(name)
    if pair is None:
        raise EC2Error("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist")
    return str(pair.material_public.decode())


def _profile(call: Call) -> dict[str, str] | None:
    wanted = call.params.get("IamInstanceProfile")
    if not wanted:
        return None
    try:
        found = filter_iam_instance_profiles(
            call.account, "aws", wanted.get("Arn"), wanted.get("Name")
        )
    except ServiceException:
        found = None
    if found is None:
        field = "arn" if "Arn" in wanted else "name"
        raise invalid(
            wanted.get("Arn") or wanted.get("Name"),
            f"iamInstanceProfile.{field}",
            f"Invalid IAM Instance Profile {field}",
        )
    return {"Arn": found.arn, "Id": found.id}


def _devices(call: Call, image: Image) -> list[_Device]:
    """Return the image's block devices, changed and completed by those of the request."""
    merged: dict[str, dict[str, Any]] = {
        m["DeviceName"]: dict(m["Ebs"]) for m in image.mappings if "Ebs" in m
    }
    for mapping in call.params.get("BlockDeviceMappings", []):
        device = mapping.get("DeviceName")
        if not device:
            raise missing("deviceName")
        if "NoDevice" in mapping:
            merged.pop(device, None)
        elif "Ebs" in mapping:
            merged[device] = _merged(device, merged.get(device), mapping["Ebs"])
        elif "VirtualName" not in mapping:
            raise EC2Error("MissingParameter", f"The mapping of {device} must contain ebs")
    if image.manifest and image.root_device in merged:
        raise EC2Error("InvalidBlockDeviceMapping", "The root device is no EBS volume.")
    if image.root_device not in merged and not image.manifest:
        raise EC2Error(
            "InvalidBlockDeviceMapping", f"The root device '{image.root_device}' is not mapped"
        )
    return [_device(call, image, name, ebs) for name, ebs in merged.items()]


def _merged(device: str, of_image: dict[str, Any] | None, asked: dict[str, Any]) -> dict[str, Any]:
    if of_image is None:
        return {"DeleteOnTermination": False, **asked}
    if asked.get("SnapshotId", of_image.get("SnapshotId")) != of_image.get("SnapshotId"):
        raise EC2Error(
            "InvalidBlockDeviceMapping", f"snapshotId cannot be modified on device {device}"
        )
    if asked.get("Encrypted") is False and of_image.get("Encrypted"):
        raise EC2Error(
            "InvalidBlockDeviceMapping", f"Encrypted snapshot of {device} makes encrypted volumes"
        )
    kept = dict(of_image)
    if asked.get("VolumeType", kept.get("VolumeType")) != kept.get("VolumeType"):
        # The image's IOPS and throughput were those of its own volume type.
        kept.pop("Iops", None)
        kept.pop("Throughput", None)
    return {**kept, **asked}


def _device(call: Call, image: Image, name: str, ebs: dict[str, Any]) -> _Device:
    snapshot = None
    if ebs.get("SnapshotId"):
        id = ebs["SnapshotId"]
        # Who may launch an image may do so without a permission on its snapshots.
        through_image = id in image.snapshot_ids()
        snapshot = call.world.snapshots[id] if through_image else call.snapshot(id)
        volumes.usable(snapshot)
    shape = volume_types.shape(
        ebs.get("VolumeType"),
        ebs.get("VolumeSize"),
        ebs.get("Iops"),
        ebs.get("Throughput"),
        (snapshot.id, snapshot.size) if snapshot else None,
    )
    return _Device(
        name,
        shape,
        snapshot,
        bool(ebs.get("DeleteOnTermination")),
        bool(ebs.get("Encrypted")),
        ebs.get("KmsKeyId"),
        kms_keys.why_unreadable(call, snapshot) if snapshot else "",
    )


def _launch(call: Call, plan: _Plan, reservation: str, index: int) -> None:
    world = call.world
    made: list[Volume] = []
    try:
        for device in plan.devices:
            made.append(
                volumes.make(
                    call,
                    plan.at.zone,
                    device.shape,
                    device.snapshot,
                    device.encrypted,
                    device.kms_key,
                    plan.tags["volume"],
                )
            )
        with world.lock:
            instance = _bring_up(call, plan, reservation, index, made)
    except BaseException:
        with world.lock:
            for volume in made:
                if volume.attachment is None:
                    world.remove_volume(volume)
        raise
    if plan.image.manifest:
        try:
            bundles.unbundle(
                world.bundle_key,
                plan.image.owner,
                plan.image.region,
                plan.image.manifest,
                world.root_disk(instance.id),
            )
        except ValueError as error:
            with world.lock:
                instances.withdraw(world, instance, str(error))
            return
    instances.power_on(world, instance)


def _bring_up(
    call: Call, plan: _Plan, reservation: str, index: int, made: list[Volume]
) -> Instance:
    world, params = call.world, call.params
    id = new_id("i")
    address = world.machines.address(id)
    eni = network.plug_in(call, id, plan.at, address, plan.tags["network-interface"])
    asked = params.get("MetadataOptions", {})
    instance = Instance(
        id=id,
        reservation=reservation,
        owner=call.account,
        region=call.region,
        zone=plan.at.zone,
        image=plan.image,
        type=plan.type,
        subnet=plan.at.subnet,
        vpc=plan.at.vpc,
        groups=list(plan.at.groups),
        eni=eni,
        address=address,
        public=plan.at.public,
        index=index,
        key_name=params.get("KeyName"),
        public_key=plan.public_key,
        user_data=plan.user_data,
        token=params.get("ClientToken", ""),
        shutdown_behavior=params.get(
            "InstanceInitiatedShutdownBehavior", "terminate" if plan.image.manifest else "stop"
        ),
        metadata={
            "State": "applied",
            # An image that says v2.0 makes its instances ask for tokens.
            "HttpTokens": "required" if plan.image.imds == "v2.0" else "optional",
            "HttpPutResponseHopLimit": 2 if plan.image.imds == "v2.0" else 1,
            "HttpEndpoint": "enabled",
            "HttpProtocolIpv6": "disabled",
            "InstanceMetadataTags": "disabled",
            **asked,
        },
        profile=plan.profile,
        root_disk=world.root_disk(id) if plan.image.manifest else None,
        kernel=params.get("KernelId") or plan.image.kernel,
        ramdisk=params.get("RamdiskId") or plan.image.ramdisk,
        protected=bool(params.get("DisableApiTermination")),
        stop_protected=bool(params.get("DisableApiStop")),
        ebs_optimized=bool(params.get("EbsOptimized")),
        monitoring=bool(params.get("Monitoring", {}).get("Enabled")),
        # The lab has capacity for every bid and takes none of it back.
        spot=params.get("InstanceMarketOptions", {}).get("MarketType") == "spot",
        tenancy=params.get("Placement", {}).get("Tenancy", "default"),
    )
    instance.key_problem = next(filter(None, (device.key_problem for device in plan.devices)), "")
    for volume, device in zip(made, plan.devices, strict=True):
        volume.state = "in-use"
        volume.attachment = Attachment(id, device.name, device.delete_on_termination)
    plan.image.launches.append(now())
    world.instances[id] = instance
    world.born("instance", instance, plan.tags["instance"])
    return instance


# Launching moves bytes, and takes the lock itself for the rest.
UNLOCKED: dict[str, Callable[[Call], dict[str, Any]]] = {"RunInstances": run_instances}
