"""Snapshots: a volume's bytes at an instant, copied between regions, described, deleted."""

from dataclasses import replace
from typing import Any

from lab.ec2 import disks, filters, kms_keys
from lab.ec2.errors import EC2Error, missing
from lab.ec2.faults import UNFINISHED
from lab.ec2.states import Span
from lab.ec2.tagging import given
from lab.ec2.world import AMAZON, Call, Snapshot, Tags, World, new_id, now


def settle(world: World, snapshot: Snapshot, seconds: float) -> None:
    """Let a snapshot be completed in so many seconds, or whatever the plan of faults has then."""
    snapshot.span = Span.of(seconds)

    def complete() -> None:
        if world.snapshots.get(snapshot.id) is not snapshot or snapshot.state != "pending":
            return
        fault = world.faults.completing("SnapshotCompletion", snapshot.region)
        if fault and fault.fault == UNFINISHED:
            return
        message = fault.message if fault else snapshot.key_problem
        if message:
            snapshot.state, snapshot.state_message = "error", message
        else:
            snapshot.state, snapshot.completed = "completed", now()
        snapshot.copying = False

    world.timeline.after(seconds, complete)


def encrypted_by_default(call: Call) -> bool:
    return bool(call.moto.ebs_encryption_by_default)


def take(call: Call, volume_id: str, description: str, tags: Tags) -> Snapshot:
    """Snapshot a volume: its bytes are those of this instant. The caller does not hold the lock."""
    world = call.world
    with world.lock:
        volume = call.volume(volume_id)
        if volume.state not in ("available", "in-use"):
            raise EC2Error(
                "IncorrectState", f"The volume '{volume_id}' is in state {volume.state}."
            )
        id = new_id("snap")
        snapshot = Snapshot(
            id,
            call.account,
            call.region,
            volume.size,
            world.snapshot_file(id),
            description=description,
            volume_id=volume_id,
            encrypted=volume.encrypted,
            kms_key=volume.kms_key,
            span=Span.of(3600),
        )
        world.snapshots[id] = snapshot
        world.born("snapshot", snapshot, tags)
        source = volume.path
    try:
        disks.copy(source, snapshot.path, snapshot.size * disks.GIB)
    except OSError as error:
        with world.lock:
            snapshot.state, snapshot.state_message = "error", str(error)
        return snapshot
    with world.lock:
        settle(world, snapshot, world.delays.snapshot)
    return snapshot


def create_snapshot(call: Call) -> dict[str, Any]:
    tags = given(call, "snapshot")["snapshot"]
    snapshot = take(call, call.params["VolumeId"], call.params.get("Description", ""), tags)
    with call.world.lock:
        return {**row(call, snapshot), "State": "pending", "Progress": ""}


def create_snapshots(call: Call) -> dict[str, Any]:
    """Of all volumes of an instance."""
    tags = given(call, "snapshot")["snapshot"]
    wanted = call.params.get("InstanceSpecification", {})
    excluded = set(wanted.get("ExcludeDataVolumeIds", []))
    with call.world.lock:
        instance = call.instance(wanted.get("InstanceId", ""))
        root = instance.image.root_device
        volumes = [
            v
            for v in call.world.volumes.values()
            if v.attachment
            and v.attachment.instance_id == instance.id
            and v.id not in excluded
            and not (wanted.get("ExcludeBootVolume") and v.attachment.device == root)
        ]
    made = []
    for volume in volumes:
        own = dict(tags)
        if call.params.get("CopyTagsFromSource") == "volume":
            own = {**call.world.tags(call.account, call.region, volume.id), **own}
        snapshot = take(call, volume.id, call.params.get("Description", ""), own)
        made.append(
            {
                "Description": snapshot.description,
                "Tags": call.tags(snapshot),
                "Encrypted": snapshot.encrypted,
                "VolumeId": volume.id,
                "State": "pending",
                "VolumeSize": snapshot.size,
                "StartTime": snapshot.started,
                "Progress": "",
                "OwnerId": call.account,
                "SnapshotId": snapshot.id,
            }
        )
    return {"Snapshots": made}


def duplicate(
    call: Call,
    source: Snapshot,
    description: str,
    tags: Tags,
    seconds: float,
    encrypt: bool = False,
) -> Snapshot:
    """Start a copy of a completed snapshot in the call's region, which takes that many seconds."""
    world = call.world
    id = new_id("snap")
    encrypted = encrypt or source.encrypted or encrypted_by_default(call)
    copy = Snapshot(
        id,
        call.account,
        call.region,
        source.size,
        world.snapshot_file(id),
        description=description,
        encrypted=encrypted,
    )
    if encrypted:
        # EC2 tells by the copy's state alone that it cannot use a key.
        name = call.params.get("KmsKeyId") or kms_keys.OF_EBS
        copy.kms_key = kms_keys.arn(call, name)
        copy.key_problem = kms_keys.why_unusable(
            call, name, kms_keys.TO_ENCRYPT
        ) or kms_keys.why_unreadable(replace(call, region=source.region), source)
    disks.share(source.path, copy.path)
    world.snapshots[id] = copy
    world.born("snapshot", copy, tags)
    settle(world, copy, seconds)
    return copy


def copy_snapshot(call: Call) -> dict[str, Any]:
    tags = given(call, "snapshot")["snapshot"]
    source_region = call.params["SourceRegion"]
    if source_region not in call.world.regions:
        raise EC2Error("InvalidParameterValue", f"Invalid source region: {source_region}")
    destination = call.params.get("DestinationRegion", call.region)
    if destination != call.region:
        raise EC2Error(
            "InvalidParameterValue",
            f"The destination region {destination} is not the region of the endpoint, "
            f"{call.region}. Send CopySnapshot to the destination.",
        )
    source = call.snapshot(call.params["SourceSnapshotId"], source_region)
    if source.state != "completed":
        raise EC2Error(
            "IncorrectState",
            f"Snapshot {source.id} is in state {source.state}; it must be completed.",
        )
    if call.params.get("KmsKeyId") and not call.params.get("Encrypted"):
        raise EC2Error(
            "InvalidParameterDependency",
            "The parameter KmsKeyId requires the parameter Encrypted to be set.",
        )
    _check_copies(call)
    copy = duplicate(
        call,
        source,
        call.params.get("Description", ""),
        tags,
        call.world.delays.copy_into(call.region),
        bool(call.params.get("Encrypted")),
    )
    copy.copying = True
    return {"SnapshotId": copy.id, "Tags": call.tags(copy)}


def _check_copies(call: Call) -> None:
    world = call.world
    running = sum(
        1
        for s in world.snapshots.values()
        if s.copying and s.region == call.region and s.owner == call.account
    )
    if running >= world.quotas.copies_into_region:
        raise EC2Error(
            "ResourceLimitExceeded",
            "Too many snapshot copies in progress. The limit is "
            f"{world.quotas.copies_into_region} for this destination region.",
        )


def row(call: Call, snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as DescribeSnapshots shows it."""
    done = snapshot.state == "completed"
    shown: dict[str, Any] = {
        "SnapshotId": snapshot.id,
        "VolumeId": snapshot.volume_id,
        "State": snapshot.state,
        "StartTime": snapshot.started,
        "Progress": "100%" if done else f"{snapshot.span.percent()}%",
        "OwnerId": snapshot.owner,
        "Description": snapshot.description,
        "VolumeSize": snapshot.size,
        "Encrypted": snapshot.encrypted,
        "StorageTier": "standard",
        **call.tagged(snapshot),
    }
    if snapshot.owner == AMAZON:
        shown["OwnerAlias"] = "amazon"
    if snapshot.state_message:
        shown["StateMessage"] = snapshot.state_message
    if snapshot.kms_key:
        shown["KmsKeyId"] = snapshot.kms_key
    if snapshot.completed:
        shown["CompletionTime"] = snapshot.completed
    return shown


FILTERS = {
    "description": filters.field("Description"),
    "encrypted": filters.field("Encrypted"),
    "owner-alias": filters.field("OwnerAlias"),
    "owner-id": filters.field("OwnerId"),
    "progress": filters.field("Progress"),
    "snapshot-id": filters.field("SnapshotId"),
    "start-time": filters.field("StartTime"),
    "status": filters.field("State"),
    "storage-tier": filters.field("StorageTier"),
    "volume-id": filters.field("VolumeId"),
    "volume-size": filters.field("VolumeSize"),
}


def describe_snapshots(call: Call) -> dict[str, Any]:
    ids = call.params.get("SnapshotIds", [])
    if ids:
        chosen = [call.snapshot(id) for id in ids]
    else:
        chosen = [s for s in call.world.snapshots.values() if s.region == call.region]
    owners = {call.account if o == "self" else o for o in call.params.get("OwnerIds", [])}
    owners = {AMAZON if o == "amazon" else o for o in owners}
    restorers = call.params.get("RestorableByUserIds", [])
    shown = []
    for snapshot in chosen:
        if not call.may_use(snapshot):
            continue
        if owners and snapshot.owner not in owners:
            continue
        if restorers and not any(_restorable(call, snapshot, who) for who in restorers):
            continue
        shown.append(row(call, snapshot))
    shown = filters.select(shown, call, FILTERS)
    rows, token = filters.page(shown, call.params, "SnapshotIds")
    return {"Snapshots": rows, "NextToken": token}


def _restorable(call: Call, snapshot: Snapshot, who: str) -> bool:
    if who == "all":
        return snapshot.public
    who = call.account if who == "self" else who
    return snapshot.owner == who or who in snapshot.users


def delete(call: Call, snapshot: Snapshot) -> None:
    """Let a snapshot be gone, into the account's Recycle Bin if a rule of it matches."""
    world = call.world
    world.recycle_bin.take_snapshot(
        snapshot.id, snapshot.description, snapshot.volume_id, call.region, call.tags(snapshot)
    )
    world.gone("snapshot", snapshot)
    del world.snapshots[snapshot.id]
    disks.remove(snapshot.path)


def delete_snapshot(call: Call) -> dict[str, Any]:
    if not call.params.get("SnapshotId"):
        raise missing("snapshotId")
    snapshot = call.own_snapshot(call.params["SnapshotId"])
    for image in call.world.images.values():
        if snapshot.id in image.snapshot_ids():
            raise EC2Error(
                "InvalidSnapshot.InUse",
                f"The snapshot {snapshot.id} is currently in use by {image.id}",
            )
    delete(call, snapshot)
    return {}


OPERATIONS = {
    "CopySnapshot": copy_snapshot,
    "DescribeSnapshots": describe_snapshots,
    "DeleteSnapshot": delete_snapshot,
}

# These move bytes, and take the lock themselves for the rest.
UNLOCKED = {"CreateSnapshot": create_snapshot, "CreateSnapshots": create_snapshots}
