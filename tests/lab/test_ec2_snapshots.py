"""Snapshots hold the real bytes of an instant, cross regions, and take their time."""

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from lab.ec2.faults import Plan, Rule
from lab.ec2.states import Delays


def volume(client: Any, zone: str = "us-east-1a", **params: Any) -> str:
    made = client.create_volume(AvailabilityZone=zone, **{"Size": 1, **params})["VolumeId"]
    waiter = client.get_waiter("volume_available")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(VolumeIds=[made])
    return str(made)


def completed(client: Any, snapshot_id: str) -> None:
    waiter = client.get_waiter("snapshot_completed")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(SnapshotIds=[snapshot_id])


def bytes_of(ec2: Any, id: str) -> Path:
    return Path(ec2.folder) / ("volumes" if id.startswith("vol") else "snapshots") / id


def write(ec2: Any, volume_id: str, data: bytes, at: int = 0) -> None:
    with bytes_of(ec2, volume_id).open("r+b") as file:
        file.seek(at)
        file.write(data)


def code(caught: Any) -> str:
    return str(caught.value.response["Error"]["Code"])


def test_snapshot_is_the_volume_at_that_instant(ec2: Any) -> None:
    client = ec2.client()
    source = volume(client)
    write(ec2, source, b"before", at=1 << 29)
    snapshot = client.create_snapshot(VolumeId=source, Description="d")
    write(ec2, source, b"after!", at=1 << 29)
    assert (snapshot["State"], snapshot["VolumeSize"]) == ("pending", 1)
    completed(client, snapshot["SnapshotId"])
    copy = volume(client, SnapshotId=snapshot["SnapshotId"], Size=2)
    with bytes_of(ec2, copy).open("rb") as file:
        file.seek(1 << 29)
        assert file.read(6) == b"before"
    assert bytes_of(ec2, copy).stat().st_size == 2 << 30
    assert bytes_of(ec2, copy).stat().st_blocks * 512 < 1 << 20


def test_snapshot_is_pending_before_it_is_completed(ec2: Any) -> None:
    client = ec2.client()
    snapshot = client.create_snapshot(VolumeId=volume(client))["SnapshotId"]
    shown = client.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]
    assert shown["State"] == "pending"
    assert shown["Progress"] != "100%"
    with pytest.raises(ClientError) as caught:
        client.create_volume(AvailabilityZone="us-east-1a", SnapshotId=snapshot)
    assert code(caught) == "IncorrectState"
    completed(client, snapshot)
    shown = client.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]
    assert shown["Progress"] == "100%"


def test_copy_in_another_region_has_the_bytes(ec2: Any) -> None:
    client, there = ec2.client(), ec2.client(region="eu-west-1")
    source = volume(client)
    write(ec2, source, b"fedora")
    snapshot = client.create_snapshot(VolumeId=source)["SnapshotId"]
    request = {
        "SourceRegion": "us-east-1",
        "SourceSnapshotId": snapshot,
        "Description": "copied",
        "TagSpecifications": [{"ResourceType": "snapshot", "Tags": [{"Key": "j", "Value": "1"}]}],
    }
    with pytest.raises(ClientError) as caught:
        there.copy_snapshot(**request)
    assert code(caught) == "IncorrectState"
    completed(client, snapshot)
    copy = there.copy_snapshot(**request)["SnapshotId"]
    wanted = [{"Name": "tag:j", "Values": ["1"]}, {"Name": "status", "Values": ["pending"]}]
    shown = there.describe_snapshots(OwnerIds=["self"], Filters=wanted)["Snapshots"]
    assert [(one["SnapshotId"], one["Description"]) for one in shown] == [(copy, "copied")]
    client.delete_snapshot(SnapshotId=snapshot)
    completed(there, copy)
    with bytes_of(ec2, copy).open("rb") as file:
        assert file.read(6) == b"fedora"


def test_twenty_copies_into_a_region_at_once(start: Any) -> None:
    slow = start(delays=Delays(snapshot_copy=60))
    client, there = slow.client(), slow.client(region="eu-west-1")
    snapshot = client.create_snapshot(VolumeId=volume(client))["SnapshotId"]
    completed(client, snapshot)
    request = {"SourceRegion": "us-east-1", "SourceSnapshotId": snapshot}
    for _ in range(20):
        there.copy_snapshot(**request)
    with pytest.raises(ClientError) as caught:
        there.copy_snapshot(**request)
    assert code(caught) == "ResourceLimitExceeded"
    slow.client(region="eu-west-2").copy_snapshot(**request)


def test_unknown_source_is_not_copied(ec2: Any) -> None:
    there = ec2.client(region="eu-west-1")
    with pytest.raises(ClientError) as caught:
        there.copy_snapshot(SourceRegion="us-east-1", SourceSnapshotId="snap-0123456789abcdef0")
    assert code(caught) == "InvalidSnapshot.NotFound"


def test_encryption_by_default_encrypts_copies(ec2: Any) -> None:
    client, there = ec2.client(), ec2.client(region="eu-west-1")
    there.enable_ebs_encryption_by_default()
    assert there.get_ebs_encryption_by_default()["EbsEncryptionByDefault"] is True
    snapshot = client.create_snapshot(VolumeId=volume(client))["SnapshotId"]
    completed(client, snapshot)
    copy = there.copy_snapshot(SourceRegion="us-east-1", SourceSnapshotId=snapshot)["SnapshotId"]
    assert there.describe_snapshots(SnapshotIds=[copy])["Snapshots"][0]["Encrypted"] is True
    with pytest.raises(ClientError) as caught:
        there.modify_snapshot_attribute(
            SnapshotId=copy, CreateVolumePermission={"Add": [{"Group": "all"}]}
        )
    assert code(caught) == "InvalidParameter"


def test_snapshots_come_in_pages(ec2: Any) -> None:
    client = ec2.client()
    source = volume(client)
    for _ in range(6):
        client.create_snapshot(VolumeId=source)
    first = client.describe_snapshots(OwnerIds=["self"], MaxResults=5)
    second = client.describe_snapshots(
        OwnerIds=["self"], MaxResults=5, NextToken=first["NextToken"]
    )
    assert (len(first["Snapshots"]), len(second["Snapshots"])) == (5, 1)
    assert "NextToken" not in second


def test_snapshot_of_a_region_may_fail(start: Any) -> None:
    rule = Rule("failed", action="SnapshotCompletion", region="us-east-1", message="disk broken")
    site = start(faults=Plan((rule,)))
    client = site.client()
    snapshot = client.create_snapshot(VolumeId=volume(client))["SnapshotId"]
    shown: dict[str, Any] = {"State": "pending"}
    while shown["State"] == "pending":
        shown = client.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]
    assert (shown["State"], shown["StateMessage"]) == ("error", "disk broken")


def test_volume_is_attached_once_and_in_its_zone(ec2: Any, utility: str) -> None:
    client = ec2.client()
    run = client.run_instances(
        ImageId=utility,
        InstanceType="t3.small",
        MinCount=2,
        MaxCount=2,
        Placement={"AvailabilityZone": "us-east-1a"},
    )
    one, two = (i["InstanceId"] for i in run["Instances"])
    waiter = client.get_waiter("instance_running")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(InstanceIds=[one, two])
    elsewhere = volume(client, zone="us-east-1b")
    with pytest.raises(ClientError) as caught:
        client.attach_volume(VolumeId=elsewhere, InstanceId=one, Device="/dev/sdf")
    assert code(caught) == "InvalidVolume.ZoneMismatch"
    here = volume(client)
    assert (
        client.attach_volume(VolumeId=here, InstanceId=one, Device="/dev/sdf")["State"]
        == "attaching"
    )
    assert ("attach", here) in ec2.machines.told
    with pytest.raises(ClientError) as caught:
        client.attach_volume(VolumeId=here, InstanceId=two, Device="/dev/sdf")
    assert code(caught) == "VolumeInUse"
    with pytest.raises(ClientError) as caught:
        client.delete_volume(VolumeId=here)
    assert code(caught) == "VolumeInUse"
    with pytest.raises(ClientError) as caught:
        client.attach_volume(VolumeId=volume(client), InstanceId=one, Device="/dev/sdf")
    assert code(caught) == "InvalidParameterValue"
    client.detach_volume(VolumeId=here)
    waiter = client.get_waiter("volume_available")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(VolumeIds=[here])
    client.delete_volume(VolumeId=here)
    assert not bytes_of(ec2, here).exists()


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, "MissingParameter"),
        ({"Size": 0}, "InvalidParameterValue"),
        ({"Size": 2000, "VolumeType": "standard"}, "InvalidParameterValue"),
        ({"Size": 1, "AvailabilityZone": "eu-west-1a"}, "InvalidZone.NotFound"),
        ({"Size": 1, "Iops": 100, "VolumeType": "gp2"}, "InvalidParameterCombination"),
        ({"SnapshotId": "snap-0123456789abcdef0"}, "InvalidSnapshot.NotFound"),
    ],
)
def test_impossible_volume_is_refused(ec2: Any, params: dict[str, Any], expected: str) -> None:
    with pytest.raises(ClientError) as caught:
        ec2.client().create_volume(**{"AvailabilityZone": "us-east-1a", **params})
    assert code(caught) == expected
