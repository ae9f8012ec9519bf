"""docs/aws-policy.json keeps a site from what another one has, and from what is nobody's.

Follows docs/aws-policy.json.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fedimg.aws import cleanup, resources
from fedimg.aws import tags as tag_names
from fedimg.aws.client.waiter import Waiter
from fedimg.exceptions import EC2ServiceException
from fedimg.images import Disk
from tests.services.conftest import ORIGIN, SITE, Lab
from tests.services.policies import REFUSED, User, policy, tagged, tags, user


@dataclass(frozen=True)
class Other:
    """The resources of another site, and of nobody."""

    instance: str
    volume: str
    snapshot: str
    image: str
    group: str
    unfinished: str


@pytest.fixture(scope="module", params=["another", None], ids=["another site's", "nobody's"])
def other(site: Lab, request: pytest.FixtureRequest) -> Iterator[Other]:
    """One of everything, tagged as another site's, or not at all."""

    def marked(*kinds: str) -> dict[str, Any]:
        return {"TagSpecifications": tagged(request.param, *kinds)} if request.param else {}

    ec2, ebs = site.ec2(), site.clients.client("ebs", ORIGIN)
    group = ec2.create_security_group(
        GroupName="theirs", Description="theirs", **marked("security-group")
    )["GroupId"]
    launched = ec2.run_instances(
        ImageId=site.utility,
        InstanceType="m5.large",
        MinCount=1,
        MaxCount=1,
        **marked("instance", "volume"),
    )
    volume = ec2.create_volume(AvailabilityZone=f"{ORIGIN}a", Size=1, **marked("volume"))
    ec2.get_waiter("volume_available").wait(
        VolumeIds=[volume["VolumeId"]], WaiterConfig={"Delay": 1}
    )
    snapshot = ec2.create_snapshot(VolumeId=volume["VolumeId"], **marked("snapshot"))
    ec2.get_waiter("snapshot_completed").wait(
        SnapshotIds=[snapshot["SnapshotId"]], WaiterConfig={"Delay": 1}
    )
    image = ec2.register_image(
        Name="theirs",
        Architecture="x86_64",
        VirtualizationType="hvm",
        EnaSupport=True,
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[
            {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot["SnapshotId"]}}
        ],
        **marked("image"),
    )
    ec2.get_waiter("image_available").wait(ImageIds=[image["ImageId"]], WaiterConfig={"Delay": 1})
    mark = {"Tags": tags(request.param)} if request.param else {}
    started = ebs.start_snapshot(VolumeSize=1, **mark)
    instance = launched["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})
    yield Other(
        instance,
        volume["VolumeId"],
        snapshot["SnapshotId"],
        image["ImageId"],
        group,
        started["SnapshotId"],
    )
    site.wipe()


PORT = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
LAUNCH = {
    "InstanceType": "m5.large",
    "MinCount": 1,
    "MaxCount": 1,
    "MetadataOptions": {"HttpTokens": "required"},
    "TagSpecifications": tagged(SITE, "instance", "volume", "network-interface"),
}

CALLS: dict[str, Callable[[Any, Other], Any]] = {
    "TerminateInstances": lambda ec2, o: ec2.terminate_instances(InstanceIds=[o.instance]),
    "GetConsoleOutput": lambda ec2, o: ec2.get_console_output(InstanceId=o.instance),
    "DeleteVolume": lambda ec2, o: ec2.delete_volume(VolumeId=o.volume),
    "CreateSnapshot": lambda ec2, o: ec2.create_snapshot(
        VolumeId=o.volume, TagSpecifications=tagged(SITE, "snapshot")
    ),
    "DeleteSnapshot": lambda ec2, o: ec2.delete_snapshot(SnapshotId=o.snapshot),
    "ModifySnapshotAttribute": lambda ec2, o: ec2.modify_snapshot_attribute(
        SnapshotId=o.snapshot,
        Attribute="createVolumePermission",
        CreateVolumePermission={"Add": [{"Group": "all"}]},
    ),
    "RegisterImage": lambda ec2, o: ec2.register_image(
        Name="mine",
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": o.snapshot}}],
        TagSpecifications=tagged(SITE, "image"),
    ),
    "DeregisterImage": lambda ec2, o: ec2.deregister_image(ImageId=o.image),
    "ModifyImageAttribute": lambda ec2, o: ec2.modify_image_attribute(
        ImageId=o.image, LaunchPermission={"Add": [{"Group": "all"}]}
    ),
    "AuthorizeSecurityGroupIngress": lambda ec2, o: ec2.authorize_security_group_ingress(
        GroupId=o.group, IpPermissions=[PORT]
    ),
    "RevokeSecurityGroupIngress": lambda ec2, o: ec2.revoke_security_group_ingress(
        GroupId=o.group, IpPermissions=[PORT]
    ),
    "DeleteSecurityGroup": lambda ec2, o: ec2.delete_security_group(GroupId=o.group),
    "a launch behind its group": lambda ec2, o: ec2.run_instances(
        ImageId=o.image, SecurityGroupIds=[o.group], **LAUNCH
    ),
    **{
        f"CreateTags on its {kind}": lambda ec2, o, kind=kind: ec2.create_tags(
            Resources=[getattr(o, kind)], Tags=tags(SITE)
        )
        for kind in ("instance", "volume", "snapshot", "image", "group", "unfinished")
    },
    "CreateTags of a role": lambda ec2, o: ec2.create_tags(
        Resources=[o.snapshot], Tags=[{"Key": "fedimg:role", "Value": "snapshot"}]
    ),
    "DeleteTags": lambda ec2, o: ec2.delete_tags(
        Resources=[o.snapshot], Tags=[{"Key": "fedimg:site"}]
    ),
}


@pytest.fixture(scope="module")
def worker(site: Lab) -> User:
    return user(site, policy())


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_call_on_another_sites_resource_is_denied(
    site: Lab, worker: User, other: Other, call: Callable[[Any, Other], Any]
) -> None:
    before = site.live()
    with pytest.raises(ClientError) as refusal:
        call(worker.lab.ec2(), other)
    assert refusal.value.response["Error"]["Code"] == "UnauthorizedOperation"
    assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert REFUSED in str(refusal.value)
    assert site.live() == before


def test_blocks_of_another_sites_snapshots_are_refused(worker: User, other: Other) -> None:
    ebs = worker.lab.clients.client("ebs", ORIGIN)
    for call in (
        lambda: ebs.put_snapshot_block(
            SnapshotId=other.unfinished,
            BlockIndex=0,
            BlockData=bytes(524288),
            DataLength=524288,
            Checksum="",
            ChecksumAlgorithm="SHA256",
        ),
        lambda: ebs.complete_snapshot(SnapshotId=other.unfinished, ChangedBlocksCount=0),
    ):
        with pytest.raises(ClientError, match=REFUSED) as refusal:
            call()
        assert refusal.value.response["Error"]["Code"] == "AccessDeniedException"


def test_clean_up_distinguishes_forbidden_from_gone(site: Lab, worker: User, other: Other) -> None:
    waiter = Waiter(site.settings().limits, threading.Event())
    kinds = {
        "instance": other.instance,
        "image": other.image,
        "snapshot": other.snapshot,
        "volume": other.volume,
        "security-group": other.group,
    }
    for kind, id in kinds.items():
        theirs = resources.Leftover(kind, id, ORIGIN, "job", "theirs")
        with pytest.raises(EC2ServiceException, match=REFUSED):
            cleanup.remove(worker.lab.clients, waiter, [theirs], limit=1)
        # EC2 refuses with the same words, as what never was has no tags.
        none = resources.Leftover(kind, id[:-8] + "00000000", ORIGIN, "job", "gone")
        removed: list[resources.Leftover] = []
        cleanup.remove(worker.lab.clients, waiter, [none], limit=1, removed=removed.append)
        assert removed == [none]


@pytest.mark.parametrize("site_of", ["another", None])
def test_nothing_is_made_for_another_site(worker: User, site: Lab, site_of: str | None) -> None:
    before = site.live()
    given = {"TagSpecifications": tagged(site_of, "security-group")} if site_of else {}
    with pytest.raises(ClientError, match=REFUSED):
        worker.lab.ec2().create_security_group(GroupName="x", Description="x", **given)
    ebs = worker.lab.clients.client("ebs", ORIGIN)
    mark = {"Tags": tags(site_of)} if site_of else {}
    with pytest.raises(ClientError, match=REFUSED):
        ebs.start_snapshot(VolumeSize=1, **mark)
    assert site.live() == before


def test_no_snapshot_is_written_on_top_of_another(worker: User, site: Lab, other: Other) -> None:
    """Made public, it would show what its parent holds: another site's things, or nobody's."""
    before = site.live()
    ebs = worker.lab.clients.client("ebs", ORIGIN)
    with pytest.raises(ClientError, match=rf"{REFUSED}: ebs:StartSnapshot") as refusal:
        ebs.start_snapshot(VolumeSize=1, ParentSnapshotId=other.snapshot, Tags=tags(SITE))
    assert refusal.value.response["Error"]["Code"] == "AccessDeniedException"
    assert site.live() == before


@pytest.fixture
def strangers(site: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return a snapshot that another account shares with everybody."""
    monkeypatch.setenv("MOTO_ACCOUNT_ID", "210987654321")
    ec2 = site.ec2()
    volume = ec2.create_volume(AvailabilityZone=f"{ORIGIN}a", Size=1)["VolumeId"]
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume], WaiterConfig={"Delay": 1})
    made = str(ec2.create_snapshot(VolumeId=volume)["SnapshotId"])
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[made], WaiterConfig={"Delay": 1})
    ec2.modify_snapshot_attribute(
        SnapshotId=made,
        Attribute="createVolumePermission",
        CreateVolumePermission={"Add": [{"Group": "all"}]},
    )
    ec2.delete_volume(VolumeId=volume)
    monkeypatch.delenv("MOTO_ACCOUNT_ID")
    yield made
    monkeypatch.setenv("MOTO_ACCOUNT_ID", "210987654321")
    ec2.delete_snapshot(SnapshotId=made)


def test_no_snapshot_of_another_account_is_copied(worker: User, site: Lab, strangers: str) -> None:
    """One that its owner shares with everybody is readable, and its copy would be ours."""
    ec2 = worker.lab.ec2()
    assert ec2.describe_snapshots(SnapshotIds=[strangers])["Snapshots"]
    copy = {"SourceRegion": ORIGIN, "SourceSnapshotId": strangers}
    with pytest.raises(ClientError, match=rf"{REFUSED}: ec2:CopySnapshot on .*{strangers}"):
        ec2.copy_snapshot(TagSpecifications=tagged(SITE, "snapshot"), **copy)
    # It is the policy's doing: who may do everything gets the copy.
    made = site.ec2().copy_snapshot(TagSpecifications=tagged(SITE, "snapshot"), **copy)
    site.ec2().delete_snapshot(SnapshotId=made["SnapshotId"])


@pytest.mark.parametrize(
    "weaker",
    [{"MetadataOptions": {"HttpTokens": "optional"}}, {"IamInstanceProfile": {"Name": "admin"}}],
    ids=["IMDSv1", "instance profile"],
)
def test_instances_have_imdsv2_alone_and_no_profile(
    worker: User, site: Lab, weaker: dict[str, Any]
) -> None:
    before = site.live()
    with pytest.raises(ClientError, match=rf"{REFUSED}: ec2:RunInstances on .*:instance/"):
        worker.lab.ec2().run_instances(**{"ImageId": site.utility, **LAUNCH, **weaker})
    assert site.live() == before


def test_own_resources_cannot_be_tagged_for_another_site(worker: User) -> None:
    ec2 = worker.lab.ec2()
    group = ec2.create_security_group(
        GroupName="mine", Description="mine", TagSpecifications=tagged(SITE, "security-group")
    )["GroupId"]
    with pytest.raises(ClientError, match=rf"{REFUSED}: ec2:CreateTags on .*{group}"):
        ec2.create_tags(Resources=[group], Tags=tags("another"))
    ec2.delete_security_group(GroupId=group)


def test_record_of_a_published_snapshot_is_all_that_may_be_tagged_later(
    worker: User, site: Lab
) -> None:
    ebs = site.clients.client("ebs", ORIGIN)
    snapshot = ebs.start_snapshot(VolumeSize=1, Tags=tags(SITE))["SnapshotId"]
    record = [
        *tag_names.facts(site.image(), Disk("a" * 64, 1), ORIGIN),
        tag_names.PUBLISHED,
        tag_names.WITHDRAWN,
    ]
    ec2 = worker.lab.ec2()
    for key in record:
        ec2.create_tags(Resources=[snapshot], Tags=[{"Key": key, "Value": "x"}])
    for key in ("fedimg:job", "fedimg:image", "fedimg:other", "Name"):
        with pytest.raises(ClientError, match=REFUSED):
            ec2.create_tags(Resources=[snapshot], Tags=[{"Key": key, "Value": "x"}])
    site.ec2().delete_snapshot(SnapshotId=snapshot)
