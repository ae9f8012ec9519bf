"""RegisterImage's rules, that images keep what they were given, and what Describe shows of them."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.lab.conftest import QUICK

Snap = Callable[..., str]


@pytest.fixture
def snapshot(ec2: Any) -> Snap:
    """Make a completed snapshot of one GiB in a region."""

    def make(region: str = "us-east-1") -> str:
        client = ec2.client(region=region)
        volume = client.create_volume(AvailabilityZone=f"{region}a", Size=1)["VolumeId"]
        client.get_waiter("volume_available").config.delay = 0.05
        waiter = client.get_waiter("volume_available")
        waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
        waiter.wait(VolumeIds=[volume])
        made = client.create_snapshot(VolumeId=volume)["SnapshotId"]
        client.delete_volume(VolumeId=volume)
        waiter = client.get_waiter("snapshot_completed")
        waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
        waiter.wait(SnapshotIds=[made])
        return str(made)

    return make


def hvm(snapshot_id: str, **more: Any) -> dict[str, Any]:
    return {
        "Name": "fedora",
        "Architecture": "x86_64",
        "VirtualizationType": "hvm",
        "EnaSupport": True,
        "RootDeviceName": "/dev/sda1",
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot_id}}],
        **more,
    }


def refusal(call: Callable[..., Any], **params: Any) -> str:
    """Return the code that EC2 refuses a call with."""
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["Error"]["Code"])


def test_image_keeps_every_attribute(ec2: Any, snapshot: Snap) -> None:
    client, snap = ec2.client(), snapshot()
    ebs = {"SnapshotId": snap, "VolumeSize": 10, "VolumeType": "gp3", "Iops": 4000}
    ebs |= {"Throughput": 200, "DeleteOnTermination": False}
    image = client.register_image(
        **hvm(
            snap,
            Description="from koji",
            BootMode="uefi",
            TpmSupport="v2.0",
            ImdsSupport="v2.0",
            SriovNetSupport="simple",
            BlockDeviceMappings=[
                {"DeviceName": "/dev/sda1", "Ebs": ebs},
                {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"},
            ],
            TagSpecifications=[
                {"ResourceType": "image", "Tags": [{"Key": "fedimg:job", "Value": "1"}]}
            ],
        )
    )["ImageId"]
    shown = client.describe_images(ImageIds=[image])["Images"][0]
    assert shown["State"] == "pending"
    expected = {
        "Name": "fedora",
        "Description": "from koji",
        "Architecture": "x86_64",
        "VirtualizationType": "hvm",
        "EnaSupport": True,
        "SriovNetSupport": "simple",
        "BootMode": "uefi",
        "TpmSupport": "v2.0",
        "ImdsSupport": "v2.0",
        "RootDeviceName": "/dev/sda1",
        "RootDeviceType": "ebs",
        "ImageType": "machine",
        "Public": False,
        "OwnerId": "123456789012",
        "Tags": [{"Key": "fedimg:job", "Value": "1"}],
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/sda1", "Ebs": ebs | {"Encrypted": False}},
            {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"},
        ],
    }
    assert {name: shown[name] for name in expected} == expected


def test_defaults_are_paravirtual_i386(ec2: Any, snapshot: Snap) -> None:
    client, snap = ec2.client(), snapshot()
    params = hvm(snap)
    for name in ("Architecture", "VirtualizationType", "EnaSupport"):
        del params[name]
    image = client.register_image(**params)["ImageId"]
    shown = client.describe_images(ImageIds=[image])["Images"][0]
    assert shown["VirtualizationType"] == "paravirtual"
    assert shown["Architecture"] == "i386"
    assert shown["KernelId"].startswith("aki-")


def test_name_is_unique_in_account_and_region(ec2: Any, snapshot: Snap) -> None:
    client, snap = ec2.client(), snapshot()
    image = client.register_image(**hvm(snap))["ImageId"]
    with pytest.raises(ClientError, match=f"is already in use by AMI {image}") as caught:
        client.register_image(**hvm(snap))
    assert caught.value.response["Error"]["Code"] == "InvalidAMIName.Duplicate"
    other = ec2.client(region="eu-west-1")
    other.register_image(**hvm(snapshot("eu-west-1")))
    client.deregister_image(ImageId=image)
    client.register_image(**hvm(snap))


@pytest.mark.parametrize("name", ["x" * 129, "a:b", "a+b", "ä-name"])
def test_malformed_names_are_refused(ec2: Any, snapshot: Snap, name: str) -> None:
    code = refusal(ec2.client().register_image, **hvm(snapshot(), Name=name))
    assert code == "InvalidAMIName.Malformed"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"RootDeviceName": "/dev/xvda"}, "InvalidBlockDeviceMapping"),
        ({"BlockDeviceMappings": []}, "InvalidBlockDeviceMapping"),
        ({"Architecture": "sparc"}, "InvalidParameterValue"),
        ({"VirtualizationType": "xen"}, "InvalidParameterValue"),
        ({"Architecture": "arm64", "VirtualizationType": "paravirtual"},
         "InvalidParameterCombination"),
        ({"Architecture": "arm64", "BootMode": "legacy-bios"}, "InvalidParameterCombination"),
        ({"TpmSupport": "v2.0"}, "InvalidParameterCombination"),
        ({"TpmSupport": "v2.0", "BootMode": "legacy-bios"}, "InvalidParameterCombination"),
        ({"TpmSupport": "v1.2", "BootMode": "uefi"}, "InvalidParameterValue"),
        ({"VirtualizationType": "paravirtual"}, "InvalidParameterCombination"),  # with ENA
        ({"VirtualizationType": "paravirtual", "EnaSupport": False, "KernelId": "aki-00000000"},
         "InvalidAMIID.NotFound"),
        ({"KernelId": "aki-00000000"}, "InvalidParameterCombination"),
        ({"BootMode": "bios"}, "InvalidParameterValue"),
    ],
)  # fmt: skip
def test_impossible_images_are_refused(
    ec2: Any, snapshot: Snap, change: dict[str, Any], code: str
) -> None:
    assert refusal(ec2.client().register_image, **hvm(snapshot(), **change)) == code


@pytest.mark.parametrize(
    ("ebs", "code"),
    [
        ({"Encrypted": False}, "InvalidBlockDeviceMapping"),
        ({"VolumeType": "standard", "VolumeSize": 1025}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "Iops": 100}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "Throughput": 5000}, "InvalidParameterValue"),
        ({"VolumeType": "gp2", "Iops": 3000}, "InvalidParameterCombination"),
        ({"VolumeType": "io1", "VolumeSize": 10}, "MissingParameter"),
        ({"VolumeType": "floppy"}, "InvalidParameterValue"),
        ({"SnapshotId": "snap-0123456789abcdef0"}, "InvalidSnapshot.NotFound"),
    ],
)
def test_impossible_volumes_are_refused(
    ec2: Any, snapshot: Snap, ebs: dict[str, Any], code: str
) -> None:
    mapping = {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot(), **ebs}}
    params = hvm("", BlockDeviceMappings=[mapping])
    assert refusal(ec2.client().register_image, **params) == code


def test_volume_is_not_smaller_than_its_snapshot(ec2: Any) -> None:
    client = ec2.client()
    made = client.create_volume(AvailabilityZone="us-east-1a", Size=2)
    waiter = client.get_waiter("volume_available")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(VolumeIds=[made["VolumeId"]])
    snap = client.create_snapshot(VolumeId=made["VolumeId"])["SnapshotId"]
    waiter = client.get_waiter("snapshot_completed")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(SnapshotIds=[snap])
    mapping = {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snap, "VolumeSize": 1}}
    params = hvm(snap, BlockDeviceMappings=[mapping])
    assert refusal(client.register_image, **params) == "InvalidBlockDeviceMapping"


def test_pending_snapshot_makes_no_image(start: Callable[..., Any]) -> None:
    client = start(delays=replace(QUICK, snapshot=600)).client()
    volume = client.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    waiter = client.get_waiter("volume_available")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(VolumeIds=[volume])
    snap = client.create_snapshot(VolumeId=volume)["SnapshotId"]
    assert refusal(client.register_image, **hvm(snap)) == "IncorrectState"


def test_pv_kernels_exist_in_old_regions_only(ec2: Any) -> None:
    wanted = [
        {"Name": "name", "Values": ["pv-grub-hd00*"]},
        {"Name": "image-type", "Values": ["kernel"]},
        {"Name": "architecture", "Values": ["x86_64"]},
    ]
    found = {}
    for region in ("us-east-1", "sa-east-1", "us-east-2", "eu-north-1"):
        images = ec2.client(region=region).describe_images(Owners=["amazon"], Filters=wanted)
        found[region] = [image["ImageId"][:4] for image in images["Images"]]
    assert found == {
        "us-east-1": ["aki-"],
        "sa-east-1": ["aki-"],
        "us-east-2": [],
        "eu-north-1": [],
    }


def test_paravirtual_image_keeps_its_kernel(ec2: Any, snapshot: Snap) -> None:
    client, snap = ec2.client(), snapshot()
    kernel = client.describe_images(
        Owners=["amazon"], Filters=[{"Name": "name", "Values": ["pv-grub-hd00_*-x86_64.gz"]}]
    )["Images"][0]["ImageId"]
    params = hvm(snap, VirtualizationType="paravirtual", KernelId=kernel)
    del params["EnaSupport"]
    image = client.register_image(**params)["ImageId"]
    held = client.describe_images(Filters=[{"Name": "kernel-id", "Values": [kernel]}])["Images"]
    assert [one["ImageId"] for one in held] == [image]
    attribute = client.describe_image_attribute(ImageId=image, Attribute="kernel")
    assert attribute["KernelId"]["Value"] == kernel


def test_paravirtual_is_refused_where_there_is_no_kernel(ec2: Any, snapshot: Snap) -> None:
    params = hvm(snapshot("us-east-2"), VirtualizationType="paravirtual")
    del params["EnaSupport"]
    code = refusal(ec2.client(region="us-east-2").register_image, **params)
    assert code == "InvalidParameterCombination"


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"name": ["fed*"]}, True),
        ({"name": ["fed?ra"]}, True),
        ({"name": ["other", "fedora"]}, True),
        ({"name": ["fedor"]}, False),
        ({"tag:job": ["1"]}, True),
        ({"tag:job": ["2"]}, False),
        ({"tag-key": ["job"]}, True),
        ({"owner-id": ["123456789012"]}, True),
        ({"is-public": ["false"], "ena-support": ["true"]}, True),
        ({"state": ["available"], "architecture": ["x86_64"]}, True),
        ({"root-device-type": ["ebs"], "virtualization-type": ["paravirtual"]}, False),
        ({"block-device-mapping.volume-size": ["1"]}, True),
    ],
)
def test_filters_choose_images(
    ec2: Any, snapshot: Snap, filters: dict[str, list[str]], found: bool
) -> None:
    client, snap = ec2.client(), snapshot()
    tags = [{"ResourceType": "image", "Tags": [{"Key": "job", "Value": "1"}]}]
    image = client.register_image(**hvm(snap, TagSpecifications=tags))["ImageId"]
    waiter = client.get_waiter("image_available")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(ImageIds=[image])
    given = [{"Name": name, "Values": values} for name, values in filters.items()]
    images = client.describe_images(Owners=["self"], Filters=given)["Images"]
    assert [one["ImageId"] for one in images] == ([image] if found else [])


def test_unknown_filter_is_refused(ec2: Any) -> None:
    wrong = [{"Name": "colour", "Values": ["red"]}]
    assert refusal(ec2.client().describe_images, Filters=wrong) == "InvalidParameterValue"


def test_images_come_in_pages(ec2: Any, snapshot: Snap) -> None:
    client, snap = ec2.client(), snapshot()
    for number in range(5):
        client.register_image(**hvm(snap, Name=f"fedora-{number}"))
    pages = client.get_paginator("describe_images").paginate(
        Owners=["self"], PaginationConfig={"PageSize": 2}
    )
    assert [len(page["Images"]) for page in pages] == [2, 2, 1]


def test_image_without_tags_is_described_without_them(ec2: Any, snapshot: Snap) -> None:
    client, snap = ec2.client(), snapshot()
    image = client.register_image(**hvm(snap))["ImageId"]
    (shown,) = client.describe_images(ImageIds=[image])["Images"]
    (below,) = client.describe_snapshots(SnapshotIds=[snap])["Snapshots"]
    assert "Tags" not in shown
    assert "Tags" not in below
    client.create_tags(Resources=[image], Tags=[{"Key": "a", "Value": "b"}])
    (shown,) = client.describe_images(ImageIds=[image])["Images"]
    assert shown["Tags"] == [{"Key": "a", "Value": "b"}]
    client.deregister_image(ImageId=image)


def test_deregistered_image_is_gone(ec2: Any, snapshot: Snap) -> None:
    client, snap = ec2.client(), snapshot()
    image = client.register_image(**hvm(snap))["ImageId"]
    assert refusal(client.delete_snapshot, SnapshotId=snap) == "InvalidSnapshot.InUse"
    client.deregister_image(ImageId=image)
    # EC2 DescribeImages: "and then return empty results".
    assert client.describe_images(ImageIds=[image])["Images"] == []
    assert refusal(client.deregister_image, ImageId=image) == "InvalidAMIID.Unavailable"
    client.delete_snapshot(SnapshotId=snap)


def test_protected_image_is_not_deregistered(ec2: Any, snapshot: Snap) -> None:
    client = ec2.client()
    image = client.register_image(**hvm(snapshot()))["ImageId"]
    client.enable_image_deregistration_protection(ImageId=image)
    assert refusal(client.deregister_image, ImageId=image) == "OperationNotPermitted"
    client.disable_image_deregistration_protection(ImageId=image)
    client.deregister_image(ImageId=image)


def test_deprecated_image_shows_its_date(ec2: Any, snapshot: Snap) -> None:
    client = ec2.client()
    image = client.register_image(**hvm(snapshot()))["ImageId"]
    client.enable_image_deprecation(ImageId=image, DeprecateAt="2031-01-01T00:00:00Z")
    shown = client.describe_images(ImageIds=[image])["Images"][0]
    assert shown["DeprecationTime"] == "2031-01-01T00:00:00.000Z"
    client.disable_image_deprecation(ImageId=image)
    assert "DeprecationTime" not in client.describe_images(ImageIds=[image])["Images"][0]


def published(ec2: Any, snapshot: Snap) -> tuple[Any, str]:
    """Return a client and the id of a public image."""
    client = ec2.client()
    image = client.register_image(**hvm(snapshot()))["ImageId"]
    waiter = client.get_waiter("image_available")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(ImageIds=[image])
    client.modify_image_attribute(ImageId=image, LaunchPermission={"Add": [{"Group": "all"}]})
    return client, image


def test_time_of_deprecation_has_limits(ec2: Any, snapshot: Snap) -> None:
    client = ec2.client()
    image = client.register_image(**hvm(snapshot()))["ImageId"]
    now = datetime.now(UTC)
    for wrong in (now - timedelta(minutes=1), now + timedelta(days=3660)):
        refused = refusal(client.enable_image_deprecation, ImageId=image, DeprecateAt=wrong)
        assert refused == "InvalidParameterValue"
    client.enable_image_deprecation(ImageId=image, DeprecateAt="2031-01-01T00:00:31Z")
    shown = client.describe_images(ImageIds=[image])["Images"][0]
    assert shown["DeprecationTime"] == "2031-01-01T00:01:00.000Z"


def test_public_image_is_deprecated_within_two_years(ec2: Any, snapshot: Snap) -> None:
    client, image = published(ec2, snapshot)

    def shown() -> datetime:
        (row,) = client.describe_images(ImageIds=[image])["Images"]
        return datetime.fromisoformat(row["DeprecationTime"])

    first = shown()
    assert timedelta(days=729) < first - datetime.now(UTC) < timedelta(days=732)
    late = first + timedelta(days=2)
    refused = refusal(client.enable_image_deprecation, ImageId=image, DeprecateAt=late)
    assert refused == "InvalidParameterValue"
    assert refusal(client.disable_image_deprecation, ImageId=image) == "OperationNotPermitted"
    client.enable_image_deprecation(ImageId=image, DeprecateAt=first - timedelta(days=30))
    assert shown() == first - timedelta(days=30)
    # What is private again may have any date, or none.
    client.reset_image_attribute(ImageId=image, Attribute="launchPermission")
    client.enable_image_deprecation(ImageId=image, DeprecateAt=late)
    client.disable_image_deprecation(ImageId=image)


def test_disabled_image_is_neither_launched_nor_shared(ec2: Any, snapshot: Snap) -> None:
    client, image = published(ec2, snapshot)
    client.disable_image(ImageId=image)
    shared = {"Add": [{"Group": "all"}]}
    for call, params in (
        (client.modify_image_attribute, {"ImageId": image, "LaunchPermission": shared}),
        (
            client.run_instances,
            {"ImageId": image, "InstanceType": "m5.large", "MinCount": 1, "MaxCount": 1},
        ),
    ):
        assert refusal(call, **params) == "InvalidAMIID.Unavailable"


def test_cooldown_follows_the_protection(ec2: Any, snapshot: Snap) -> None:
    client = ec2.client()
    image = client.register_image(**hvm(snapshot()))["ImageId"]
    client.enable_image_deregistration_protection(ImageId=image, WithCooldown=True)
    assert refusal(client.deregister_image, ImageId=image) == "OperationNotPermitted"
    client.disable_image_deregistration_protection(ImageId=image)
    assert refusal(client.deregister_image, ImageId=image) == "OperationNotPermitted"
    assert client.describe_images(ImageIds=[image])["Images"]


def test_snapshot_goes_with_its_last_image(ec2: Any, snapshot: Snap) -> None:
    client, snap = ec2.client(), snapshot()
    images = [client.register_image(**hvm(snap, Name=f"fed{n}"))["ImageId"] for n in range(2)]
    codes = []
    for image in images:
        answer = client.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)
        codes += [each["ReturnCode"] for each in answer["DeleteSnapshotResults"]]
    assert codes == ["skipped", "success"]
    found = client.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    assert snap not in [each["SnapshotId"] for each in found]


def test_copied_image_has_a_snapshot_of_its_own(ec2: Any, snapshot: Snap) -> None:
    client, there = ec2.client(), ec2.client(region="eu-central-1")
    image = client.register_image(**hvm(snapshot(), Description="d", BootMode="uefi"))["ImageId"]
    request = {
        "Name": "copy",
        "SourceImageId": image,
        "SourceRegion": "us-east-1",
        "ClientToken": "one",
        "TagSpecifications": [{"ResourceType": "image", "Tags": [{"Key": "a", "Value": "b"}]}],
    }
    assert refusal(there.copy_image, **request) == "InvalidAMIID.Unavailable"
    waiter = client.get_waiter("image_available")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(ImageIds=[image])
    copy = there.copy_image(**request)["ImageId"]
    assert there.copy_image(**request)["ImageId"] == copy
    waiter = there.get_waiter("image_available")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(ImageIds=[copy])
    shown = there.describe_images(ImageIds=[copy])["Images"][0]
    assert (shown["BootMode"], shown["EnaSupport"], shown["Tags"]) == (
        "uefi",
        True,
        [{"Key": "a", "Value": "b"}],
    )
    held = shown["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    assert there.describe_snapshots(SnapshotIds=[held])["Snapshots"][0]["State"] == "completed"
    assert len(there.describe_images(Owners=["self"])["Images"]) == 1
