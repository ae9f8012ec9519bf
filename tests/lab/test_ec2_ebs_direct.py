"""Snapshots written and read through the EBS direct API, and what it does not let pass."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

BLOCK = 524288


def checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def put(ebs: Any, snapshot: str, index: int, data: bytes, **changed: Any) -> None:
    asked = {
        "SnapshotId": snapshot,
        "BlockIndex": index,
        "BlockData": data,
        "DataLength": len(data),
        "Checksum": checksum(data),
        "ChecksumAlgorithm": "SHA256",
    }
    ebs.put_snapshot_block(**{**asked, **changed})


def completed(client: Any, snapshot: str) -> None:
    waiter = client.get_waiter("snapshot_completed")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(SnapshotIds=[snapshot])


def reason(caught: Any) -> tuple[str, str]:
    return caught.value.response["Error"]["Code"], caught.value.response["Reason"]


def test_written_blocks_are_the_bytes_of_an_image(ec2: Any) -> None:
    client, ebs = ec2.client(), ec2.client("ebs")
    started = ebs.start_snapshot(
        VolumeSize=1, Description="d", Tags=[{"Key": "j", "Value": "1"}], Timeout=60
    )
    snapshot = started["SnapshotId"]
    assert (started["BlockSize"], started["Status"]) == (BLOCK, "pending")
    blocks = {0: b"a" * BLOCK, 3: b"\0" * BLOCK, 2047: b"z" * BLOCK}
    for index, data in blocks.items():
        put(ebs, snapshot, index, data)
    digests = b"".join(hashlib.sha256(blocks[i]).digest() for i in sorted(blocks))
    ebs.complete_snapshot(
        SnapshotId=snapshot,
        ChangedBlocksCount=3,
        Checksum=checksum(digests),
        ChecksumAlgorithm="SHA256",
        ChecksumAggregationMethod="LINEAR",
    )
    completed(client, snapshot)
    shown = client.describe_snapshots(Filters=[{"Name": "tag:j", "Values": ["1"]}])["Snapshots"]
    assert [one["SnapshotId"] for one in shown] == [snapshot]
    image = client.register_image(
        Name="direct",
        Architecture="x86_64",
        VirtualizationType="hvm",
        EnaSupport=True,
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot}}],
    )["ImageId"]
    waiter = client.get_waiter("image_available")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(ImageIds=[image])
    run = client.run_instances(ImageId=image, InstanceType="t3.small", MinCount=1, MaxCount=1)
    root: Path = ec2.machines.launches[run["Instances"][0]["InstanceId"]].disks[0].path
    with root.open("rb") as file:
        assert file.read(BLOCK) == blocks[0]
        file.seek(2047 * BLOCK)
        assert file.read() == blocks[2047]


def test_snapshot_is_read_back(ec2: Any) -> None:
    client, ebs = ec2.client(), ec2.client("ebs")
    snapshot = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    put(ebs, snapshot, 1, b"a" * BLOCK)
    put(ebs, snapshot, 1, b"b" * BLOCK)
    ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=1)
    completed(client, snapshot)
    listed = ebs.list_snapshot_blocks(SnapshotId=snapshot)
    assert (listed["VolumeSize"], listed["BlockSize"]) == (1, BLOCK)
    (block,) = listed["Blocks"]
    got = ebs.get_snapshot_block(SnapshotId=snapshot, **block)
    assert got["BlockData"].read() == b"b" * BLOCK
    assert got["Checksum"] == checksum(b"b" * BLOCK)
    with pytest.raises(ClientError) as caught:
        ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=1, BlockToken="wrong")
    assert reason(caught) == ("ValidationException", "INVALID_BLOCK_TOKEN")
    child = ebs.start_snapshot(VolumeSize=1, ParentSnapshotId=snapshot)["SnapshotId"]
    put(ebs, child, 5, b"c" * BLOCK)
    ebs.complete_snapshot(SnapshotId=child, ChangedBlocksCount=1)
    completed(client, child)
    changed = ebs.list_changed_blocks(FirstSnapshotId=snapshot, SecondSnapshotId=child)
    (only,) = changed["ChangedBlocks"]
    assert only["BlockIndex"] == 5
    # The first snapshot has no such block.
    assert "FirstBlockToken" not in only
    assert [b["BlockIndex"] for b in ebs.list_snapshot_blocks(SnapshotId=child)["Blocks"]] == [1, 5]


@pytest.mark.parametrize(
    "changed",
    [
        {"Checksum": checksum(b"other")},
        {"BlockData": b"short", "DataLength": 5, "Checksum": checksum(b"short")},
        {"BlockIndex": 2048},
        {"DataLength": 512},
    ],
)
def test_wrong_block_is_refused(ec2: Any, changed: dict[str, Any]) -> None:
    ebs = ec2.client("ebs")
    snapshot = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    with pytest.raises(ClientError) as caught:
        put(ebs, snapshot, 0, b"a" * BLOCK, **changed)
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_wrong_sum_does_not_complete(ec2: Any) -> None:
    ebs = ec2.client("ebs")
    snapshot = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    put(ebs, snapshot, 0, b"a" * BLOCK)
    with pytest.raises(ClientError) as caught:
        ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=2)
    assert reason(caught) == ("ValidationException", "INVALID_PARAMETER_VALUE")
    with pytest.raises(ClientError) as caught:
        ebs.complete_snapshot(
            SnapshotId=snapshot,
            ChangedBlocksCount=1,
            Checksum=checksum(b"other"),
            ChecksumAlgorithm="SHA256",
            ChecksumAggregationMethod="LINEAR",
        )
    assert reason(caught) == ("ValidationException", "INVALID_PARAMETER_VALUE")
    ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=1)
    with pytest.raises(ClientError):
        put(ebs, snapshot, 1, b"late" * (BLOCK // 4))


def test_start_token_is_one_snapshot(ec2: Any) -> None:
    ebs = ec2.client("ebs")
    first = ebs.start_snapshot(VolumeSize=1, ClientToken="t")["SnapshotId"]
    assert ebs.start_snapshot(VolumeSize=1, ClientToken="t")["SnapshotId"] == first
    with pytest.raises(ClientError) as caught:
        ebs.start_snapshot(VolumeSize=2, ClientToken="t")
    assert caught.value.response["Error"]["Code"] == "ConflictException"


def test_unknown_snapshot_is_not_found(ec2: Any) -> None:
    with pytest.raises(ClientError) as caught:
        put(ec2.client("ebs"), "snap-0123456789abcdef0", 0, b"a" * BLOCK)
    assert reason(caught) == ("ResourceNotFoundException", "SNAPSHOT_NOT_FOUND")
