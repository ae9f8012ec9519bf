"""Instance types that an image is for, watermarks, UEFI data: the lab refuses what EC2 refuses.

Follows lab/ec2/image_options.py.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest
from botocore.exceptions import ClientError

STORE = base64.b64encode(b"AMZNUEFI" + bytes(24)).decode()


def refused(code: str) -> Any:
    return pytest.raises(ClientError, match=code)


@pytest.fixture
def own(ec2: Any) -> str:
    """Return an available image of the account's own, for instances of x86_64."""
    client = ec2.client()
    volume = client.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    ready(client, "volume_available", VolumeIds=[volume])
    snapshot = client.create_snapshot(VolumeId=volume)["SnapshotId"]
    ready(client, "snapshot_completed", SnapshotIds=[snapshot])
    made = client.register_image(
        Name="own",
        Architecture="x86_64",
        VirtualizationType="hvm",
        EnaSupport=True,
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot}}],
    )["ImageId"]
    ready(client, "image_available", ImageIds=[made])
    return str(made)


def ready(client: Any, what: str, **ids: list[str]) -> None:
    waiter = client.get_waiter(what)
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(**ids)


def specify(client: Any, image: str, **types: list[str]) -> None:
    answer = client.replace_image_instance_type_specification(
        ImageId=image, InstanceTypeSpecification=types
    )
    assert answer["ReturnValue"] is True


def shown(client: Any, image: str) -> dict[str, Any]:
    (found,) = client.describe_images(ImageIds=[image])["Images"]
    return dict(found)


def launch(client: Any, image: str, kind: str) -> None:
    run = client.run_instances(ImageId=image, InstanceType=kind, MinCount=1, MaxCount=1)
    client.terminate_instances(InstanceIds=[run["Instances"][0]["InstanceId"]])


def test_launches_follow_the_types_that_the_image_is_for(ec2: Any, own: str) -> None:
    client = ec2.client()
    specify(
        client,
        own,
        SupportedInstanceTypes=["t3.*", "m5.large"],
        UnsupportedInstanceTypes=["t3.nano"],
    )
    assert shown(client, own)["InstanceTypeSpecification"] == {
        "SupportedInstanceTypes": [{"InstanceType": "t3.*"}, {"InstanceType": "m5.large"}],
        "UnsupportedInstanceTypes": [{"InstanceType": "t3.nano"}],
    }
    for kind in ("t3.small", "m5.large"):
        launch(client, own, kind)
    for kind in ("t3.nano", "m5.xlarge"):
        with refused("InvalidParameterCombination"):
            launch(client, own, kind)
    client.replace_image_instance_type_specification(ImageId=own)
    assert "InstanceTypeSpecification" not in shown(client, own)
    launch(client, own, "t3.nano")


@pytest.mark.parametrize(
    ("types", "code"),
    [
        ({"SupportedInstanceTypes": ["t3.**"]}, "InvalidParameterValue"),
        ({"SupportedInstanceTypes": ["t3 small"]}, "InvalidParameterValue"),
        ({"SupportedInstanceTypes": ["x" * 25]}, "InvalidParameterValue"),
        ({"SupportedInstanceTypes": [f"t{n}.*" for n in range(101)]}, "InvalidParameterValue"),
        (
            {"SupportedInstanceTypes": ["t3.*"], "UnsupportedInstanceTypes": ["t3.*"]},
            "InvalidParameterCombination",
        ),
    ],
)
def test_types_are_refused(ec2: Any, own: str, types: dict[str, list[str]], code: str) -> None:
    with refused(code):
        specify(ec2.client(), own, **types)


def test_others_set_no_types(ec2: Any, utility: str) -> None:
    with refused("AuthFailure"):
        specify(ec2.client(), utility, SupportedInstanceTypes=["t3.*"])


def test_watermark_and_public_exclude_each_other(ec2: Any, own: str) -> None:
    client = ec2.client()
    everybody = {"Add": [{"Group": "all"}]}
    key = client.attach_image_watermark(ImageId=own, WatermarkName="approved")["WatermarkKey"]
    (mark,) = shown(client, own)["ImageWatermarks"]
    assert (mark["WatermarkKey"], mark["SourceImageId"]) == (key, own)
    assert key.endswith(":approved")
    with refused("OperationNotPermitted"):
        client.modify_image_attribute(ImageId=own, LaunchPermission=everybody)
    client.detach_image_watermark(ImageId=own, WatermarkKey=key)
    client.detach_image_watermark(ImageId=own, WatermarkKey=key)
    client.modify_image_attribute(ImageId=own, LaunchPermission=everybody)
    with refused("OperationNotPermitted"):
        client.attach_image_watermark(ImageId=own, WatermarkName="approved")
    with refused("InvalidParameterValue"):
        client.attach_image_watermark(ImageId=own, WatermarkName="a+b")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, ""),
        ({"BootMode": "legacy-bios"}, "InvalidParameterCombination"),
        ({"UefiData": "?"}, "InvalidParameterValue"),
        ({"UefiData": base64.b64encode(b"something else").decode()}, "InvalidParameterValue"),
        ({"UefiData": STORE * 2000}, "InvalidParameterValue"),
    ],
)
def test_uefi_data(ec2: Any, own: str, changes: dict[str, str], code: str) -> None:
    client = ec2.client()
    (mapping,) = shown(client, own)["BlockDeviceMappings"]
    request = {
        "Name": "with-uefi-data",
        "Architecture": "x86_64",
        "VirtualizationType": "hvm",
        "RootDeviceName": mapping["DeviceName"],
        "BlockDeviceMappings": [
            {
                "DeviceName": mapping["DeviceName"],
                "Ebs": {"SnapshotId": mapping["Ebs"]["SnapshotId"]},
            }
        ],
        "BootMode": "uefi",
        "UefiData": STORE,
        **changes,
    }
    if code:
        with refused(code):
            client.register_image(**request)
        return
    made = client.register_image(**request)["ImageId"]
    told = client.describe_image_attribute(ImageId=made, Attribute="uefiData")
    assert told["UefiData"] == {"Value": STORE}
