"""ImportSnapshot: a disk image in S3 becomes a snapshot, in a task that takes time."""

from typing import Any

from moto.core.exceptions import ServiceException
from moto.s3.models import s3_backends

from lab.ec2 import disks, filters, snapshots
from lab.ec2.errors import EC2Error, invalid, missing
from lab.ec2.tagging import given
from lab.ec2.world import Call, Snapshot, new_id

FORMATS = ("raw",)


def import_snapshot(call: Call) -> dict[str, Any]:
    tags = given(call, "import-snapshot-task")["import-snapshot-task"]
    params, world = call.params, call.world
    disk = params.get("DiskContainer", {})

    def start() -> str:
        if disk.get("Format", "").lower() not in FORMATS:
            raise invalid(disk.get("Format"), "diskContainer.format", "The lab imports RAW only.")
        data = _object(call, disk)
        task, id = new_id("import-snap"), new_id("snap")
        size = max(1, -(-len(data) // disks.GIB))
        path = world.snapshot_file(id)
        disks.create(path, size * disks.GIB)
        _write_sparse(path, data)
        snapshot = Snapshot(
            id,
            call.account,
            call.region,
            size,
            path,
            description=f"Created by AWS-VMImport service for {task}",
            encrypted=bool(params.get("Encrypted")) or snapshots.encrypted_by_default(call),
        )
        with world.lock:
            world.snapshots[id] = snapshot
            world.born("snapshot", snapshot, {})
            world.tag(call.account, call.region, task, tags)
            world.imports[task] = {
                "account": call.account,
                "region": call.region,
                "snapshot": snapshot,
                "description": params.get("Description", ""),
                "disk": disk,
                "bytes": len(data),
            }
            snapshots.settle(world, snapshot, world.delays.snapshot)
        return task

    task = world.tokens.once((call.account, call.region, call.action), params, start)
    with world.lock:
        return _row(call, task)


def _object(call: Call, disk: dict[str, Any]) -> bytes:
    bucket = disk.get("UserBucket", {})
    name, key = bucket.get("S3Bucket"), bucket.get("S3Key")
    if disk.get("Url", "").startswith("s3://"):
        name, _, key = disk["Url"][5:].partition("/")
    if not name or not key:
        raise missing("diskContainer.userBucket")
    try:
        found = s3_backends[call.account]["aws"].get_object(name, key)
    except ServiceException:
        found = None
    if found is None:
        raise EC2Error("InvalidParameter", f"S3 has no s3://{name}/{key}.")
    return bytes(found.value)


def _write_sparse(path: Any, data: bytes) -> None:
    step = 1 << 16
    with path.open("r+b") as file:
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            if piece.count(0) != len(piece):
                file.seek(at)
                file.write(piece)


def _row(call: Call, task: str) -> dict[str, Any]:
    held = call.world.imports[task]
    snapshot: Snapshot = held["snapshot"]
    status = {"pending": "active", "completed": "completed", "error": "deleted"}[snapshot.state]
    detail: dict[str, Any] = {
        "Description": held["description"],
        "DiskImageSize": float(held["bytes"]),
        "Format": held["disk"]["Format"].upper(),
        "Status": status,
        "UserBucket": held["disk"].get("UserBucket", {}),
    }
    if status == "completed":
        detail["SnapshotId"] = snapshot.id
    else:
        detail["Progress"] = str(snapshot.span.percent())
        detail["StatusMessage"] = snapshot.state_message or "pending"
    tags = call.world.tags(call.account, call.region, task)
    return {
        "ImportTaskId": task,
        "Description": held["description"],
        "SnapshotTaskDetail": detail,
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }


def describe_import_snapshot_tasks(call: Call) -> dict[str, Any]:
    mine = {
        task: held
        for task, held in call.world.imports.items()
        if (held["account"], held["region"]) == (call.account, call.region)
    }
    wanted = call.params.get("ImportTaskIds") or list(mine)
    for task in wanted:
        if task not in mine:
            raise EC2Error("InvalidConversionTaskId", f"The import task '{task}' does not exist")
    rows, token = filters.page([_row(call, task) for task in wanted], call.params, "ImportTaskIds")
    return {"ImportSnapshotTasks": rows, "NextToken": token}


OPERATIONS = {"DescribeImportSnapshotTasks": describe_import_snapshot_tasks}

# Importing moves bytes, and takes the lock itself for the rest.
UNLOCKED = {"ImportSnapshot": import_snapshot}
