"""ImportSnapshot: a disk image in S3 becomes a snapshot, in a task that takes time."""

import struct
import zlib
from typing import Any

from moto.core.exceptions import ServiceException
from moto.s3.models import s3_backends

from lab.ec2 import disk_formats, filters, kms_keys, snapshots
from lab.ec2.errors import EC2Error, invalid, missing
from lab.ec2.tagging import given
from lab.ec2.world import Call, ImportTask, Snapshot, new_id

FORMATS = ("raw", "vhd", "vmdk")


def import_snapshot(call: Call) -> dict[str, Any]:
    tags = given(call, "import-snapshot-task")["import-snapshot-task"]
    params, world = call.params, call.world
    disk = params.get("DiskContainer", {})
    if disk.get("Format", "").lower() not in FORMATS:
        raise invalid(disk.get("Format"), "diskContainer.format", "Valid values: RAW, VHD, VMDK.")

    def start() -> str:
        data = _object(call, disk)
        id = new_id("import-snap")
        failure, made = "", None
        try:
            made = _snapshot(call, id, disk["Format"], data)
        except disk_formats.NotADisk as error:
            failure = str(error)
        except (struct.error, zlib.error) as error:
            failure = f"ClientError: Disk validation failed [{error}]"
        description = params.get("Description", "")
        task = ImportTask(
            id, call.account, call.region, description, disk, len(data), made, failure
        )
        with world.lock:
            world.imports[id] = task
            world.tag(call.account, call.region, id, tags)
        return id

    id = world.tokens.once((call.account, call.region, call.action), params, start)
    with world.lock:
        return _row(call, world.imports[id])


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


def _snapshot(call: Call, task: str, kind: str, data: bytes) -> Snapshot:
    world, id = call.world, new_id("snap")
    path = world.snapshot_file(id)
    size = disk_formats.unpack(kind, data, path)
    encrypted = bool(call.params.get("Encrypted")) or snapshots.encrypted_by_default(call)
    snapshot = Snapshot(
        id,
        call.account,
        call.region,
        size,
        path,
        description=f"Created by AWS-VMImport service for {task}",
        encrypted=encrypted,
        kms_key=kms_keys.default(call) if encrypted else None,
    )
    with world.lock:
        world.snapshots[id] = snapshot
        world.born("snapshot", snapshot, {})
        snapshots.settle(world, snapshot, world.delays.snapshot)
    return snapshot


def _row(call: Call, task: ImportTask) -> dict[str, Any]:
    detail: dict[str, Any] = {
        "Description": task.description,
        "DiskImageSize": float(task.bytes),
        "Format": task.disk["Format"].upper(),
        "UserBucket": task.disk.get("UserBucket", {}),
    }
    if task.snapshot is None:
        detail |= {"Status": "deleted", "StatusMessage": task.failure}
    elif task.snapshot.state == "completed":
        detail |= {"Status": "completed", "SnapshotId": task.snapshot.id}
    elif task.snapshot.state == "error":
        detail |= {"Status": "deleted", "StatusMessage": task.snapshot.state_message}
    else:
        progress = str(task.snapshot.span.percent())
        detail |= {"Status": "active", "StatusMessage": "pending", "Progress": progress}
    return {
        "ImportTaskId": task.id,
        "Description": task.description,
        "SnapshotTaskDetail": detail,
        "Tags": call.tags(task),
    }


def describe_import_snapshot_tasks(call: Call) -> dict[str, Any]:
    mine = {
        id: task
        for id, task in call.world.imports.items()
        if (task.owner, task.region) == (call.account, call.region)
    }
    wanted = call.params.get("ImportTaskIds") or list(mine)
    for id in wanted:
        if id not in mine:
            raise EC2Error("InvalidConversionTaskId", f"The import task '{id}' does not exist")
    rows = filters.select((_row(call, mine[id]) for id in wanted), call, {})
    rows, token = filters.page(rows, call.params, "ImportTaskIds")
    return {"ImportSnapshotTasks": rows, "NextToken": token}


OPERATIONS = {"DescribeImportSnapshotTasks": describe_import_snapshot_tasks}

# Importing moves bytes, and takes the lock itself for the rest.
UNLOCKED = {"ImportSnapshot": import_snapshot}
