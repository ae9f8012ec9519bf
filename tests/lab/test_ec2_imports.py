"""ImportSnapshot unpacks what VM Import takes, and fails its task on what it does not."""

import base64
import hashlib
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SECTOR = 512
GRAIN = 128 * SECTOR


def streamed_vmdk(grains: dict[int, bytes], size: int) -> bytes:
    """Return a stream-optimized VMDK of one grain table, as qemu-img and VMware export it."""

    def header(directory: int) -> bytes:
        fixed = struct.pack(
            "<4sIIQQQQIQQQ", b"KDMV", 3, 1 << 16, size // SECTOR, 128, 0, 0, 512, 0, directory, 1
        )
        return fixed.ljust(SECTOR, b"\0")

    out = bytearray(header(0xFFFFFFFFFFFFFFFF))
    table = [0] * 512
    for number, data in grains.items():
        packed = zlib.compress(data)
        table[number] = len(out) // SECTOR
        out += struct.pack("<QI", number * 128, len(packed)) + packed
        out += bytes(-len(out) % SECTOR)
    table_at = len(out) // SECTOR
    out += struct.pack("<512I", *table)
    directory_at = len(out) // SECTOR
    out += struct.pack("<I", table_at).ljust(SECTOR, b"\0")
    return bytes(out + header(directory_at) + bytes(SECTOR))


@pytest.fixture
def imported(ec2: Any) -> Callable[[str, bytes], dict[str, Any]]:
    """Upload a disk, import it, and wait for the end of the task."""
    client, s3 = ec2.client(), ec2.client("s3")
    s3.create_bucket(Bucket="disks")

    def run(kind: str, data: bytes) -> dict[str, Any]:
        s3.put_object(Bucket="disks", Key="disk", Body=data)
        bucket = {"S3Bucket": "disks", "S3Key": "disk"}
        tags = [{"ResourceType": "import-snapshot-task", "Tags": [{"Key": "n", "Value": "1"}]}]
        client.import_snapshot(
            DiskContainer={"Format": kind, "UserBucket": bucket}, TagSpecifications=tags
        )
        while True:
            wanted = [{"Name": "tag:n", "Values": ["1"]}]
            (task,) = client.describe_import_snapshot_tasks(Filters=wanted)["ImportSnapshotTasks"]
            detail: dict[str, Any] = task["SnapshotTaskDetail"]
            if detail["Status"] != "active":
                return detail
            time.sleep(0.02)

    return run


def test_raw_disk_is_imported(ec2: Any, imported: Any) -> None:
    detail = imported("raw", b"\0" * GRAIN + b"fedora")
    path = Path(ec2.folder) / "snapshots" / detail["SnapshotId"]
    assert path.stat().st_size == 1 << 30
    with path.open("rb") as file:
        file.seek(GRAIN)
        assert file.read(6) == b"fedora"


def test_streamed_vmdk_is_imported(ec2: Any, imported: Any) -> None:
    grains = {0: b"a" * GRAIN, 5: b"b" * GRAIN}
    detail = imported("vmdk", streamed_vmdk(grains, size=512 * GRAIN))
    with (Path(ec2.folder) / "snapshots" / detail["SnapshotId"]).open("rb") as file:
        assert file.read(GRAIN) == grains[0]
        assert file.read(GRAIN) == bytes(GRAIN)
        file.seek(5 * GRAIN)
        assert file.read(GRAIN) == grains[5]


@pytest.mark.parametrize("kind", ["vmdk", "vhd"])
def test_import_of_an_unknown_format_fails_its_task(imported: Any, kind: str) -> None:
    detail = imported(kind, b"no disk at all" * 100)
    assert detail["Status"] == "deleted"
    assert "Disk validation failed" in detail["StatusMessage"]


def test_upload_in_parts_returns_the_checksums(ec2: Any) -> None:
    s3 = ec2.client("s3")
    s3.create_bucket(Bucket="disks")
    upload = {"Bucket": "disks", "Key": "disk"}
    made = s3.create_multipart_upload(**upload, ChecksumAlgorithm="SHA256")
    upload["UploadId"] = made["UploadId"]
    part = s3.upload_part(**upload, PartNumber=1, Body=b"fedora", ChecksumAlgorithm="SHA256")
    listed = s3.list_parts(**upload)
    assert listed["ChecksumAlgorithm"] == "SHA256"
    assert listed["Parts"][0]["ChecksumSHA256"] == part["ChecksumSHA256"]
    parts = [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]}]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    head = s3.head_object(Bucket="disks", Key="disk", ChecksumMode="ENABLED")
    # Of the parts' checksums, and their number (S3, "Checking object integrity").
    sums = hashlib.sha256(hashlib.sha256(b"fedora").digest()).digest()
    assert head["ChecksumSHA256"] == base64.b64encode(sums).decode() + "-1"


def test_object_tags_may_begin_with_aws(ec2: Any) -> None:
    s3 = ec2.client("s3")
    s3.create_bucket(Bucket="disks")
    s3.put_object(Bucket="disks", Key="disk", Body=b"fedora")
    tags = [{"Key": "awspub:source", "Value": "x"}]
    s3.put_object_tagging(Bucket="disks", Key="disk", Tagging={"TagSet": tags})
    assert s3.get_object_tagging(Bucket="disks", Key="disk")["TagSet"] == tags
