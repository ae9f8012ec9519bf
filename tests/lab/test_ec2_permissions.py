"""Public and shared images and snapshots, and the account's block of public access.

Follows lab/ec2/permissions.py.
"""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from lab.ec2.world import Quotas

PUBLIC = {"Add": [{"Group": "all"}]}
STRANGER = "999999999999"


def snapshot(client: Any, **params: Any) -> str:
    region = client.meta.region_name
    volume = client.create_volume(AvailabilityZone=f"{region}a", Size=1, **params)["VolumeId"]
    wait(client, "volume_available", VolumeIds=[volume])
    made = client.create_snapshot(VolumeId=volume)["SnapshotId"]
    wait(client, "snapshot_completed", SnapshotIds=[made])
    return str(made)


def image(client: Any, name: str = "fedora", **params: Any) -> str:
    ebs = {"SnapshotId": snapshot(client, **params)}
    made = client.register_image(
        Name=name,
        Architecture="x86_64",
        VirtualizationType="hvm",
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": ebs}],
    )["ImageId"]
    wait(client, "image_available", ImageIds=[made])
    return str(made)


def wait(client: Any, name: str, **params: Any) -> None:
    waiter = client.get_waiter(name)
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(**params)


def refusal(call: Callable[..., Any], **params: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["Error"]["Code"])


def test_image_is_private_until_it_is_made_public(ec2: Any) -> None:
    client = ec2.client()
    made = image(client)
    public = {"Owners": ["self"], "ExecutableUsers": ["all"]}
    assert client.describe_images(**public)["Images"] == []
    client.modify_image_attribute(ImageId=made, LaunchPermission=PUBLIC)
    assert [i["ImageId"] for i in client.describe_images(**public)["Images"]] == [made]
    shown = client.describe_image_attribute(ImageId=made, Attribute="launchPermission")
    assert shown["LaunchPermissions"] == [{"Group": "all"}]
    client.modify_image_attribute(
        ImageId=made, Attribute="launchPermission", OperationType="remove", UserGroups=["all"]
    )
    assert client.describe_images(ImageIds=[made])["Images"][0]["Public"] is False


def test_snapshot_is_private_until_it_is_made_public(ec2: Any) -> None:
    client = ec2.client()
    made = snapshot(client)
    public = {"OwnerIds": ["self"], "RestorableByUserIds": ["all"]}
    assert client.describe_snapshots(**public)["Snapshots"] == []
    client.modify_snapshot_attribute(SnapshotId=made, CreateVolumePermission=PUBLIC)
    assert len(client.describe_snapshots(**public)["Snapshots"]) == 1
    shown = client.describe_snapshot_attribute(SnapshotId=made, Attribute="createVolumePermission")
    assert shown["CreateVolumePermissions"] == [{"Group": "all"}]
    client.modify_snapshot_attribute(
        SnapshotId=made,
        Attribute="createVolumePermission",
        OperationType="add",
        UserIds=[STRANGER],
    )
    client.reset_snapshot_attribute(SnapshotId=made, Attribute="createVolumePermission")
    assert client.describe_snapshots(**public)["Snapshots"] == []


def test_pending_image_is_not_shared(ec2: Any) -> None:
    client = ec2.client()
    made = client.register_image(
        Name="new",
        Architecture="x86_64",
        VirtualizationType="hvm",
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot(client)}}],
    )["ImageId"]
    code = refusal(client.modify_image_attribute, ImageId=made, LaunchPermission=PUBLIC)
    assert code == "InvalidAMIID.Unavailable"


def test_block_public_access_blocks_images(ec2: Any) -> None:
    client = ec2.client()
    state = client.get_image_block_public_access_state()
    assert state["ImageBlockPublicAccessState"] == "unblocked"
    made = image(client)
    client.enable_image_block_public_access(ImageBlockPublicAccessState="block-new-sharing")
    code = refusal(client.modify_image_attribute, ImageId=made, LaunchPermission=PUBLIC)
    assert code == "OperationNotPermitted"
    client.modify_image_attribute(ImageId=made, LaunchPermission={"Add": [{"UserId": STRANGER}]})
    elsewhere = ec2.client(region="eu-west-1").get_image_block_public_access_state()
    assert elsewhere["ImageBlockPublicAccessState"] == "unblocked"
    client.disable_image_block_public_access()
    client.modify_image_attribute(ImageId=made, LaunchPermission=PUBLIC)


def test_block_public_access_blocks_snapshots(ec2: Any) -> None:
    client = ec2.client()
    assert client.get_snapshot_block_public_access_state()["State"] == "unblocked"
    made = snapshot(client)
    client.enable_snapshot_block_public_access(State="block-all-sharing")
    share = {"SnapshotId": made, "CreateVolumePermission": PUBLIC}
    assert refusal(client.modify_snapshot_attribute, **share) == "OperationNotPermitted"
    client.disable_snapshot_block_public_access()
    client.modify_snapshot_attribute(**share)


def test_block_of_all_sharing_hides_what_was_public_before(ec2: Any, monkeypatch: Any) -> None:
    """With `block-all-sharing` EC2 treats public snapshots as private, and named accounts keep
    theirs.
    """
    client = ec2.client()
    held = [snapshot(client) for _ in range(2)]
    for id in held:
        client.modify_snapshot_attribute(
            SnapshotId=id, Attribute="createVolumePermission", CreateVolumePermission=PUBLIC
        )
    client.modify_snapshot_attribute(
        SnapshotId=held[1],
        Attribute="createVolumePermission",
        CreateVolumePermission={"Add": [{"UserId": STRANGER}]},
    )

    def seen() -> list[str]:
        with monkeypatch.context() as patch:
            patch.setenv("MOTO_ACCOUNT_ID", STRANGER)
            shown = {each["SnapshotId"] for each in client.describe_snapshots()["Snapshots"]}
            return [id for id in held if id in shown]

    assert seen() == held
    client.enable_snapshot_block_public_access(State="block-new-sharing")
    assert seen() == held
    client.enable_snapshot_block_public_access(State="block-all-sharing")
    assert seen() == held[1:]
    monkeypatch.setenv("MOTO_ACCOUNT_ID", STRANGER)
    assert refusal(client.describe_snapshots, SnapshotIds=held[:1]) == "InvalidSnapshot.NotFound"
    monkeypatch.delenv("MOTO_ACCOUNT_ID")
    client.disable_snapshot_block_public_access()
    assert seen() == held


def test_encrypted_image_is_never_public(ec2: Any) -> None:
    client = ec2.client()
    made = image(client, Encrypted=True)
    code = refusal(client.modify_image_attribute, ImageId=made, LaunchPermission=PUBLIC)
    assert code == "InvalidParameter"


def test_public_images_have_a_quota(start: Any) -> None:
    site = start(quotas=Quotas(public_images=1))
    client = site.client()
    first, second = image(client, "one-image"), image(client, "two-image")
    client.modify_image_attribute(ImageId=first, LaunchPermission=PUBLIC)
    client.modify_image_attribute(ImageId=first, LaunchPermission=PUBLIC)
    code = refusal(client.modify_image_attribute, ImageId=second, LaunchPermission=PUBLIC)
    assert code == "ResourceLimitExceeded"
    quota = site.client("service-quotas").get_service_quota(
        ServiceCode="ec2", QuotaCode="L-0E3CBAB9"
    )
    assert quota["Quota"]["Value"] == 1.0


@pytest.mark.parametrize("item", [{"UserId": "123"}, {"Group": "some"}])
def test_sharing_with_nobody_is_refused(ec2: Any, item: dict[str, str]) -> None:
    client = ec2.client()
    made = image(client)
    permission = {"Add": [item]}
    if "Group" in item:
        # boto3 checks nothing here; EC2 does.
        permission = {"Add": [{"Group": item["Group"]}]}
    code = refusal(client.modify_image_attribute, ImageId=made, LaunchPermission=permission)
    assert code == "InvalidAMIAttributeItemValue"


def test_other_accounts_see_what_is_shared_only(ec2: Any, monkeypatch: Any) -> None:
    client = ec2.client()
    made = image(client)
    held = client.describe_images(ImageIds=[made])["Images"][0]
    snap = held["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    monkeypatch.setenv("MOTO_ACCOUNT_ID", STRANGER)
    assert refusal(client.describe_images, ImageIds=[made]) == "InvalidAMIID.NotFound"
    assert refusal(client.describe_snapshots, SnapshotIds=[snap]) == "InvalidSnapshot.NotFound"
    monkeypatch.delenv("MOTO_ACCOUNT_ID")
    client.modify_image_attribute(ImageId=made, LaunchPermission=PUBLIC)
    monkeypatch.setenv("MOTO_ACCOUNT_ID", STRANGER)
    assert len(client.describe_images(ImageIds=[made])["Images"]) == 1
    # The image may be launched, but not copied, nor changed.
    there = ec2.client(region="eu-west-1")
    copy = {"Name": "mine", "SourceImageId": made, "SourceRegion": "us-east-1"}
    assert refusal(there.copy_image, **copy) == "InvalidRequest"
    assert refusal(client.deregister_image, ImageId=made) == "AuthFailure"


ORGANIZATION = "arn:aws:organizations::123456789012:organization/o-exampleorg1"
UNIT = "arn:aws:organizations::123456789012:ou/o-exampleorg1/ou-exam-12345678"


def test_image_is_shared_with_organizations_and_units(ec2: Any, monkeypatch: Any) -> None:
    client = ec2.client()
    made = image(client)
    wanted = [{"OrganizationArn": ORGANIZATION}, {"OrganizationalUnitArn": UNIT}]
    client.modify_image_attribute(ImageId=made, LaunchPermission={"Add": wanted})

    def shown() -> list[dict[str, str]]:
        answer = client.describe_image_attribute(ImageId=made, Attribute="launchPermission")
        return list(answer["LaunchPermissions"])

    assert shown() == wanted
    client.modify_image_attribute(ImageId=made, LaunchPermission={"Remove": wanted[:1]})
    assert shown() == wanted[1:]
    # The lists of the older way of giving them.
    client.modify_image_attribute(
        ImageId=made,
        Attribute="launchPermission",
        OperationType="remove",
        OrganizationalUnitArns=[UNIT],
    )
    assert shown() == []


@pytest.mark.parametrize(
    "permission",
    [
        {"OrganizationArn": "o-exampleorg1"},
        {"OrganizationArn": UNIT},
        {"OrganizationArn": ORGANIZATION.replace("aws", "aws-cn", 1)},
        {"OrganizationalUnitArn": ORGANIZATION},
        {"UserId": "12345678901"},
    ],
)
def test_permission_of_another_form_is_refused(ec2: Any, permission: dict[str, str]) -> None:
    client = ec2.client()
    code = refusal(
        client.modify_image_attribute,
        ImageId=image(client),
        LaunchPermission={"Add": [permission]},
    )
    assert code == "InvalidAMIAttributeItemValue"


def test_one_call_adds_or_removes_up_to_500_permissions_of_a_snapshot(ec2: Any) -> None:
    client = ec2.client()
    made = snapshot(client)
    users = [{"UserId": f"{number:012}"} for number in range(501)]
    for change in (
        {"Add": users[:1], "Remove": users[1:2]},
        {"Add": users},
    ):
        code = refusal(
            client.modify_snapshot_attribute,
            SnapshotId=made,
            Attribute="createVolumePermission",
            CreateVolumePermission=change,
        )
        assert code == "InvalidParameterCombination"
    client.modify_snapshot_attribute(
        SnapshotId=made,
        Attribute="createVolumePermission",
        CreateVolumePermission={"Add": users[:500]},
    )
