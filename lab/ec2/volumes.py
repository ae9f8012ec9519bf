"""Volumes: made blank or of a snapshot, attached, detached, changed, deleted."""

from typing import Any

from lab.ec2 import disks, filters, kms_keys
from lab.ec2.errors import EC2Error, invalid, missing
from lab.ec2.snapshots import encrypted_by_default
from lab.ec2.tagging import given
from lab.ec2.volume_types import Shape, shape
from lab.ec2.world import Attachment, Call, Snapshot, Tags, Volume, World, new_id, now
from lab.machines import Disk


def make(
    call: Call,
    zone: str,
    kind: Shape,
    snapshot: Snapshot | None,
    encrypted: bool,
    kms_key: str | None,
    tags: Tags,
) -> Volume:
    """Make a volume that is still `creating`; its bytes are there when this returns.

    The caller does not hold the lock.
    """
    world = call.world
    id = new_id("vol")
    encrypted = encrypted or encrypted_by_default(call) or bool(snapshot and snapshot.encrypted)
    if encrypted:
        of_snapshot = snapshot.kms_key if snapshot and snapshot.encrypted else None
        kms_key = kms_keys.arn(call, kms_key) if kms_key else of_snapshot or kms_keys.default(call)
    volume = Volume(
        id,
        call.account,
        call.region,
        zone,
        kind.size,
        world.volume_file(id),
        kind.type,
        kind.iops,
        kind.throughput,
        snapshot_id=snapshot.id if snapshot else "",
        encrypted=encrypted,
        kms_key=kms_key if encrypted else None,
    )
    try:
        if snapshot:
            disks.copy(snapshot.path, volume.path, kind.size * disks.GIB)
        else:
            disks.create(volume.path, kind.size * disks.GIB)
    except OSError:
        disks.remove(volume.path)
        raise
    with world.lock:
        world.volumes[id] = volume
        world.born("volume", volume, tags)
        if volume.kms_key:
            volume.retire_grant = kms_keys.lend(call, world, volume.kms_key, id)
    return volume


def usable(snapshot: Snapshot) -> Snapshot:
    """Raise IncorrectState for a snapshot that is not completed."""
    if snapshot.state != "completed":
        raise EC2Error("IncorrectState", f"Snapshot is in invalid state - {snapshot.state}")
    return snapshot


def create_volume(call: Call) -> dict[str, Any]:
    tags = given(call, "volume")["volume"]
    params, world = call.params, call.world
    zone = zone_of(call, params.get("AvailabilityZone"), params.get("AvailabilityZoneId"))

    def create() -> str:
        with world.lock:
            named = params.get("SnapshotId")
            snapshot = usable(call.snapshot(named)) if named else None
            kind = shape(
                params.get("VolumeType"),
                params.get("Size"),
                params.get("Iops"),
                params.get("Throughput"),
                (snapshot.id, snapshot.size) if snapshot else None,
            )
        volume = make(
            call,
            zone,
            kind,
            snapshot,
            bool(params.get("Encrypted")),
            params.get("KmsKeyId"),
            tags,
        )

        def available() -> None:
            if volume.state == "creating":
                volume.state = "available"

        world.timeline.after(world.delays.volume, available)
        return volume.id

    id = world.tokens.once((call.account, call.region, call.action), params, create)
    with world.lock:
        volume = call.volume(id)
        answer = {**row(call, volume), "Tags": call.tags(volume)}
    del answer["Attachments"]
    return answer


def zone_of(call: Call, name: str | None, id: str | None = None) -> str:
    """Return the zone's name, if it is one of the region."""
    zones = call.moto.describe_availability_zones()
    for zone in zones:
        if zone.name == name or (id and zone.zone_id == id):
            return str(zone.name)
    if not name and not id:
        raise missing("AvailabilityZone")
    raise EC2Error("InvalidZone.NotFound", f"The zone '{name or id}' does not exist.")


def row(call: Call, volume: Volume) -> dict[str, Any]:
    """Return a volume as DescribeVolumes shows it."""
    shown: dict[str, Any] = {
        "VolumeId": volume.id,
        "Size": volume.size,
        "SnapshotId": volume.snapshot_id,
        "AvailabilityZone": volume.zone,
        "State": volume.state,
        "CreateTime": volume.created,
        "VolumeType": volume.type,
        "Encrypted": volume.encrypted,
        "MultiAttachEnabled": False,
        "Attachments": [attachment_row(volume)] if volume.attachment else [],
        **call.tagged(volume),
    }
    if volume.iops:
        shown["Iops"] = volume.iops
    if volume.throughput:
        shown["Throughput"] = volume.throughput
    if volume.kms_key:
        shown["KmsKeyId"] = volume.kms_key
    return shown


def attachment_row(volume: Volume) -> dict[str, Any]:
    held = volume.attachment
    assert held
    return {
        "VolumeId": volume.id,
        "InstanceId": held.instance_id,
        "Device": held.device,
        "State": held.state,
        "AttachTime": held.since,
        "DeleteOnTermination": held.delete_on_termination,
    }


FILTERS = {
    "attachment.attach-time": filters.field("Attachments", "AttachTime"),
    "attachment.delete-on-termination": filters.field("Attachments", "DeleteOnTermination"),
    "attachment.device": filters.field("Attachments", "Device"),
    "attachment.instance-id": filters.field("Attachments", "InstanceId"),
    "attachment.status": filters.field("Attachments", "State"),
    "availability-zone": filters.field("AvailabilityZone"),
    "create-time": filters.field("CreateTime"),
    "encrypted": filters.field("Encrypted"),
    "multi-attach-enabled": filters.field("MultiAttachEnabled"),
    "size": filters.field("Size"),
    "snapshot-id": filters.field("SnapshotId"),
    "status": filters.field("State"),
    "volume-id": filters.field("VolumeId"),
    "volume-type": filters.field("VolumeType"),
}


# None of the volumes has an event or an action.
STATUS_FILTERS = {
    "action.code": filters.field("Actions", "Code"),
    "action.description": filters.field("Actions", "Description"),
    "action.event-id": filters.field("Actions", "EventId"),
    "availability-zone": filters.field("AvailabilityZone"),
    "event.description": filters.field("Events", "Description"),
    "event.event-id": filters.field("Events", "EventId"),
    "event.event-type": filters.field("Events", "EventType"),
    "event.not-after": filters.field("Events", "NotAfter"),
    "event.not-before": filters.field("Events", "NotBefore"),
    "volume-status.details-name": filters.field("VolumeStatus", "Details", "Name"),
    "volume-status.details-status": filters.field("VolumeStatus", "Details", "Status"),
    "volume-status.status": filters.field("VolumeStatus", "Status"),
}


def describe_volumes(call: Call) -> dict[str, Any]:
    chosen = filters.select((row(call, v) for v in _named(call)), call, FILTERS)
    rows, token = filters.page(chosen, call.params, "VolumeIds")
    return {"Volumes": rows, "NextToken": token}


def describe_volume_status(call: Call) -> dict[str, Any]:
    statuses: list[dict[str, Any]] = [
        {
            "VolumeId": volume.id,
            "AvailabilityZone": volume.zone,
            "VolumeStatus": {
                "Status": "ok",
                "Details": [{"Name": "io-enabled", "Status": "passed"}],
            },
            "Actions": [],
            "Events": [],
            "Tags": call.tags(volume),
        }
        for volume in _named(call)
    ]
    rows, token = filters.page(
        filters.select(statuses, call, STATUS_FILTERS), call.params, "VolumeIds"
    )
    for one in rows:
        one.pop("Tags")
    return {"VolumeStatuses": rows, "NextToken": token}


def _named(call: Call) -> list[Volume]:
    """Return the caller's volumes of the ids in the call, or all."""
    ids = call.params.get("VolumeIds", [])
    if ids:
        return [call.volume(id) for id in ids]
    return [
        v
        for v in call.world.volumes.values()
        if v.region == call.region and v.owner == call.account
    ]


def attach_volume(call: Call) -> dict[str, Any]:
    volume = call.volume(call.params["VolumeId"])
    instance = call.instance(call.params["InstanceId"])
    device = call.params["Device"]
    if volume.state == "in-use":
        raise EC2Error("VolumeInUse", f"{volume.id} is already attached to an instance")
    if volume.state != "available":
        raise EC2Error(
            "IncorrectState", f"Volume {volume.id} is in state {volume.state}; must be available."
        )
    if instance.state not in ("running", "stopped"):
        raise EC2Error("IncorrectState", f"Instance '{instance.id}' is not 'running'.")
    if volume.zone != instance.zone:
        raise EC2Error(
            "InvalidVolume.ZoneMismatch",
            f"The volume '{volume.id}' is not in the same availability zone as instance "
            f"'{instance.id}'",
        )
    for other in call.world.volumes.values():
        held = other.attachment
        if held and held.instance_id == instance.id and held.device == device:
            raise invalid(device, "device", f"Attachment point {device} is already in use")
    volume.state = "in-use"
    volume.attachment = Attachment(
        instance.id, device, delete_on_termination=False, state="attaching"
    )
    if instance.state == "running":
        call.world.machines.attach(instance.id, Disk(volume.id, volume.path, device, False))
    held = volume.attachment

    def attached() -> None:
        if held.state == "attaching":
            held.state = "attached"

    call.world.timeline.after(call.world.delays.volume, attached)
    return attachment_row(volume)


def detach_volume(call: Call) -> dict[str, Any]:
    volume = call.volume(call.params["VolumeId"])
    held = volume.attachment
    if held is None or held.state == "detaching":
        raise EC2Error("IncorrectState", f"Volume '{volume.id}' is in the 'available' state.")
    wanted = call.params.get("InstanceId")
    device = call.params.get("Device")
    if (wanted and wanted != held.instance_id) or (device and device != held.device):
        raise EC2Error(
            "InvalidAttachment.NotFound",
            f"The volume '{volume.id}' is not attached to instance '{wanted}' as '{device}'",
        )
    instance = call.instance(held.instance_id)
    if held.device == instance.image.root_device and instance.state == "running":
        raise EC2Error(
            "OperationNotPermitted",
            f"Unable to detach root volume '{volume.id}' from instance '{instance.id}'",
        )
    if instance.state == "running":
        call.world.machines.detach(instance.id, volume.id)
    held.state = "detaching"

    def detached() -> None:
        if volume.attachment is held:
            volume.attachment = None
            volume.state = "available"

    call.world.timeline.after(call.world.delays.volume, detached)
    return attachment_row(volume)


def delete_volume(call: Call) -> dict[str, Any]:
    volume = call.volume(call.params["VolumeId"])
    if volume.attachment:
        raise EC2Error(
            "VolumeInUse",
            f"Volume {volume.id} is currently attached to {volume.attachment.instance_id}",
        )
    if volume.state == "creating":
        raise EC2Error("IncorrectState", f"Volume {volume.id} is in state creating.")
    call.world.remove_volume(volume)
    return {}


def modify_volume(call: Call) -> dict[str, Any]:
    params = call.params
    volume = call.volume(params["VolumeId"])
    size = params.get("Size", volume.size)
    if size < volume.size:
        raise EC2Error("InvalidParameterValue", "New size cannot be smaller than existing size")
    same = params.get("VolumeType", volume.type) == volume.type
    before = Shape(volume.type, volume.size, volume.iops, volume.throughput)
    # gp2's IOPS follow from its size and cannot be handed back in.
    keep = same and volume.type not in ("gp2",)
    after = shape(
        params.get("VolumeType", volume.type),
        size,
        params.get("Iops", volume.iops if keep else None),
        params.get("Throughput", volume.throughput if keep else None),
    )
    volume.type, volume.size = after.type, after.size
    volume.iops, volume.throughput = after.iops, after.throughput
    with volume.path.open("r+b") as file:
        file.truncate(volume.size * disks.GIB)
    volume.modification = {
        "VolumeId": volume.id,
        "ModificationState": "completed",
        "TargetSize": after.size,
        "TargetVolumeType": after.type,
        "TargetIops": after.iops,
        "TargetThroughput": after.throughput,
        "OriginalSize": before.size,
        "OriginalVolumeType": before.type,
        "OriginalIops": before.iops,
        "OriginalThroughput": before.throughput,
        "Progress": 100,
        "StartTime": now(),
        "EndTime": now(),
    }
    started = {**volume.modification, "ModificationState": "modifying", "Progress": 0}
    del started["EndTime"]
    return {"VolumeModification": started}


def describe_volumes_modifications(call: Call) -> dict[str, Any]:
    ids = call.params.get("VolumeIds", [])
    volumes = [call.volume(id) for id in ids] or list(call.world.volumes.values())
    rows = [
        v.modification
        for v in volumes
        if v.modification and v.region == call.region and v.owner == call.account
    ]
    known = {
        "modification-state": filters.field("ModificationState"),
        "original-iops": filters.field("OriginalIops"),
        "original-size": filters.field("OriginalSize"),
        "original-volume-type": filters.field("OriginalVolumeType"),
        "start-time": filters.field("StartTime"),
        "target-iops": filters.field("TargetIops"),
        "target-size": filters.field("TargetSize"),
        "target-volume-type": filters.field("TargetVolumeType"),
        "volume-id": filters.field("VolumeId"),
    }
    rows, token = filters.page(filters.select(rows, call, known), call.params, "VolumeIds")
    return {"VolumesModifications": rows, "NextToken": token}


def describe_volume_attribute(call: Call) -> dict[str, Any]:
    volume = call.volume(call.params["VolumeId"])
    if call.params["Attribute"] == "productCodes":
        return {"VolumeId": volume.id, "ProductCodes": []}
    return {"VolumeId": volume.id, "AutoEnableIO": {"Value": False}}


def attached_to(world: World, instance_id: str) -> list[Volume]:
    """Return an instance's volumes, in the order of their devices."""
    held = [
        v
        for v in world.volumes.values()
        if v.attachment and v.attachment.instance_id == instance_id
    ]
    return sorted(held, key=lambda v: v.attachment.device if v.attachment else "")


OPERATIONS = {
    "AttachVolume": attach_volume,
    "DeleteVolume": delete_volume,
    "DescribeVolumeAttribute": describe_volume_attribute,
    "DescribeVolumeStatus": describe_volume_status,
    "DescribeVolumes": describe_volumes,
    "DescribeVolumesModifications": describe_volumes_modifications,
    "DetachVolume": detach_volume,
    "ModifyVolume": modify_volume,
}

# This moves bytes, and takes the lock itself for the rest.
UNLOCKED = {"CreateVolume": create_volume}
