"""The Recycle Bin: its rules by the service rbin, and what it holds by EC2.

Follows lab/ec2/rbin.py, lab/ec2/recycled.py and lab/ec2/recycle_bin.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

PERIOD = {"RetentionPeriodValue": 7, "RetentionPeriodUnit": "DAYS"}


def deleted_snapshot(ec2: Any, key: str = "") -> str:
    """Make a snapshot, with a tag if a key is given, and delete it."""
    client = ec2.client()
    volume = client.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    waiter = client.get_waiter("volume_available")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(VolumeIds=[volume])
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": key, "Value": "x"}]}] if key else []
    made = client.create_snapshot(VolumeId=volume, TagSpecifications=tags)["SnapshotId"]
    waiter = client.get_waiter("snapshot_completed")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(SnapshotIds=[made])
    client.delete_snapshot(SnapshotId=made)
    client.delete_volume(VolumeId=volume)
    return str(made)


def kept(ec2: Any, **params: Any) -> list[str]:
    shown = ec2.client().list_snapshots_in_recycle_bin(**params)["Snapshots"]
    return [each["SnapshotId"] for each in shown]


def test_deleted_snapshot_stays_in_the_bin_if_a_rule_matches(ec2: Any) -> None:
    rbin = ec2.client("rbin")
    gone = deleted_snapshot(ec2)
    made = rbin.create_rule(
        ResourceType="EBS_SNAPSHOT",
        RetentionPeriod=PERIOD,
        Description="a week",
        ResourceTags=[{"ResourceTagKey": "keep"}],
    )
    (listed,) = rbin.list_rules(ResourceType="EBS_SNAPSHOT")["Rules"]
    assert listed["Identifier"] == made["Identifier"]
    assert (listed["Description"], listed["RetentionPeriod"]) == ("a week", PERIOD)
    assert rbin.get_rule(Identifier=made["Identifier"])["ResourceType"] == "EBS_SNAPSHOT"
    assert rbin.list_rules(ResourceType="EC2_IMAGE")["Rules"] == []
    assert (
        ec2.client("rbin", region="eu-west-1").list_rules(ResourceType="EBS_SNAPSHOT")["Rules"]
        == []
    )

    other, matched = deleted_snapshot(ec2, "other"), deleted_snapshot(ec2, "keep")
    assert kept(ec2) == kept(ec2, SnapshotIds=[gone, other, matched]) == [matched]
    (row,) = ec2.client().list_snapshots_in_recycle_bin()["Snapshots"]
    assert (row["RecycleBinExitTime"] - row["RecycleBinEnterTime"]).days == 7
    # What is in the bin is in use by nobody.
    found = ec2.client().describe_snapshots(OwnerIds=["self"])["Snapshots"]
    assert matched not in [each["SnapshotId"] for each in found]

    rbin.delete_rule(Identifier=made["Identifier"])
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        rbin.get_rule(Identifier=made["Identifier"])
    assert deleted_snapshot(ec2, "keep") not in kept(ec2)


def test_deregistered_image_stays_in_the_bin_if_a_rule_of_images_matches(ec2: Any) -> None:
    rbin, client = ec2.client("rbin"), ec2.client()
    rules = {
        each: rbin.create_rule(ResourceType=each, RetentionPeriod=PERIOD)["Identifier"]
        for each in ("EC2_IMAGE", "EBS_SNAPSHOT")
    }
    for each, rule in rules.items():
        (listed,) = rbin.list_rules(ResourceType=each)["Rules"]
        assert listed["Identifier"] == rule
    volume = client.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    waiter = client.get_waiter("volume_available")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(VolumeIds=[volume])
    snapshot = client.create_snapshot(VolumeId=volume)["SnapshotId"]
    waiter = client.get_waiter("snapshot_completed")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(SnapshotIds=[snapshot])
    image = client.register_image(
        Name="recycled",
        Architecture="x86_64",
        VirtualizationType="hvm",
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot}}],
    )["ImageId"]
    assert client.list_images_in_recycle_bin()["Images"] == []
    client.deregister_image(ImageId=image)
    (row,) = client.list_images_in_recycle_bin(ImageIds=[image])["Images"]
    assert (row["ImageId"], row["Name"]) == (image, "recycled")
    assert (row["RecycleBinExitTime"] - row["RecycleBinEnterTime"]).days == 7
    assert client.describe_images(Owners=["self"])["Images"] == []
    assert snapshot not in kept(ec2)
    for rule in rules.values():
        rbin.delete_rule(Identifier=rule)


def test_rule_of_no_days_is_refused(ec2: Any) -> None:
    with pytest.raises(ClientError, match="ValidationException"):
        ec2.client("rbin").create_rule(
            ResourceType="EBS_SNAPSHOT",
            RetentionPeriod={"RetentionPeriodValue": 400, "RetentionPeriodUnit": "DAYS"},
        )
