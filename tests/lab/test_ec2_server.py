"""The server around it all: regions, errors, counts, ledger, starting clean."""

import json
import threading
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import boto3
import pytest
import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.lab.conftest import KEY
from tests.plans import ask, forget_calls

FORM = "application/x-www-form-urlencoded"


def raw(ec2: Any, body: str) -> tuple[int, str]:
    """Send a signed request without botocore, and return the answer."""
    asked = AWSRequest("POST", ec2.ec2.url + "/", {"Content-Type": FORM}, body)
    SigV4Auth(Credentials(*KEY), "ec2", "us-east-1").add_auth(asked)
    answer = requests.post(asked.url, body, headers=dict(asked.headers.items()), timeout=60)
    return answer.status_code, answer.text


def volume(client: Any, **params: Any) -> str:
    zone = f"{client.meta.region_name}a"
    made = client.create_volume(AvailabilityZone=zone, Size=1, **params)["VolumeId"]
    waiter = client.get_waiter("volume_available")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(VolumeIds=[made])
    return str(made)


def test_regions_are_the_commercial_partitions(ec2: Any) -> None:
    names = {r["RegionName"] for r in ec2.client().describe_regions()["Regions"]}
    assert names == set(boto3.Session().get_available_regions("ec2", partition_name="aws"))
    assert not {n for n in names if n.startswith(("cn-", "us-gov-", "us-iso"))}


def test_configured_regions_are_all_there_are(start: Any) -> None:
    site = start(regions=("us-east-1", "eu-west-1"))
    regions = site.client().describe_regions(AllRegions=True)["Regions"]
    assert [r["RegionName"] for r in regions] == ["us-east-1", "eu-west-1"]
    with pytest.raises(ClientError) as caught:
        site.client(region="us-west-2").describe_images()
    assert caught.value.response["Error"]["Code"] == "AuthFailure"


def test_each_region_has_zones_network_and_types(ec2: Any) -> None:
    for region in ("us-east-1", "mx-central-1", "ap-southeast-7"):
        client = ec2.client(region=region)
        assert len(client.describe_availability_zones()["AvailabilityZones"]) >= 2
        assert client.describe_vpcs()["Vpcs"][0]["IsDefault"]
        assert client.describe_subnets()["Subnets"][0]["MapPublicIpOnLaunch"]
        types = client.describe_instance_type_offerings(
            Filters=[{"Name": "instance-type", "Values": ["t3.small"]}]
        )
        assert len(types["InstanceTypeOfferings"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("Action=MakeCoffee&Version=2016-11-15", 400, "InvalidAction"),
        ("Action=GetImageAncestry&ImageId=ami-1&Version=2016-11-15", 400, "UnsupportedOperation"),
        ("Action=DescribeImages&Colour=red&Version=2016-11-15", 400, "UnknownParameter"),
        ("Action=DescribeImages&MaxResults=x&Version=2016-11-15", 400, "InvalidParameterValue"),
        ("Action=CopySnapshot&Version=2016-11-15", 400, "MissingParameter"),
        ("Version=2016-11-15", 400, "MissingParameter"),
        ("Action=DescribeVpcs&Action=DeleteVpc&Version=2016-11-15", 400, "MalformedQueryString"),
        ("Action=RequestSpotInstances&Version=2016-11-15", 400, "UnsupportedOperation"),
    ],
)
def test_errors_are_ec2s_xml(ec2: Any, body: str, status: int, code: str) -> None:
    got, text = raw(ec2, body)
    assert got == status
    assert text.startswith("<?xml")
    assert f"<Code>{code}</Code>" in text
    assert "<RequestID>" in text


@pytest.mark.parametrize(
    "action", ["DescribeImages", "DescribeAvailabilityZones", "DescribeKeyPairs", "DescribeTags"]
)
def test_answers_are_in_the_namespace_of_the_apis_version(ec2: Any, action: str) -> None:
    _, text = raw(ec2, f"Action={action}&Version=2016-11-15")
    assert ElementTree.fromstring(text).tag == (
        f"{{http://ec2.amazonaws.com/doc/2016-11-15/}}{action}Response"
    )


def test_dry_run_makes_nothing(ec2: Any) -> None:
    client = ec2.client()
    with pytest.raises(ClientError) as caught:
        client.create_volume(AvailabilityZone="us-east-1a", Size=1, DryRun=True)
    assert caught.value.response["Error"]["Code"] == "DryRunOperation"
    assert client.describe_volumes()["Volumes"] == []


def test_calls_are_counted_by_action_and_region(ec2: Any) -> None:
    ec2.client().describe_images(Owners=["self"])
    ec2.client(region="eu-west-1").describe_images(Owners=["self"])
    ec2.client("ebs").start_snapshot(VolumeSize=1)
    ec2.client("sts").get_caller_identity()
    counts = ask(ec2.ec2, "calls")
    assert counts["EC2"]["DescribeImages"] == 2
    assert counts["EBS"] == {"StartSnapshot": 1}
    assert counts["STS"] == {"GetCallerIdentity": 1}
    assert ask(ec2.ec2, "calls?by=region")["eu-west-1"] == {"EC2": {"DescribeImages": 1}}
    forget_calls(ec2.ec2)
    assert ask(ec2.ec2, "calls") == {}


def test_ledger_has_every_create_and_delete(ec2: Any) -> None:
    client = ec2.client()
    tags = [{"Key": "job", "Value": "7"}]
    group = client.create_security_group(
        GroupName="g",
        Description="d",
        TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
    )["GroupId"]
    pair = client.create_key_pair(KeyName="k")["KeyPairId"]
    held = volume(client, TagSpecifications=[{"ResourceType": "volume", "Tags": tags}])
    snapshot = client.create_snapshot(VolumeId=held)["SnapshotId"]
    client.modify_snapshot_attribute(
        SnapshotId=snapshot, CreateVolumePermission={"Add": [{"Group": "all"}]}
    )
    live = {(row["kind"], row["id"]): row for row in ask(ec2.ec2, "ledger/live")}
    assert live["security-group", group]["tags"] == {"job": "7"}
    assert live["snapshot", snapshot]["public"] is True
    assert len(live) == 4
    client.delete_volume(VolumeId=held)
    client.delete_snapshot(SnapshotId=snapshot)
    client.delete_key_pair(KeyPairId=pair)
    client.delete_security_group(GroupId=group)
    assert ask(ec2.ec2, "ledger/live") == []
    rows = [(row["event"], row["kind"], row["id"]) for row in ask(ec2.ec2, "ledger")]
    assert rows == [
        ("create", "security-group", group),
        ("create", "key-pair", pair),
        ("create", "volume", held),
        ("create", "snapshot", snapshot),
        ("delete", "volume", held),
        ("delete", "snapshot", snapshot),
        ("delete", "key-pair", pair),
        ("delete", "security-group", group),
    ]
    on_disk = (Path(ec2.folder) / "ledger.jsonl").read_text().splitlines()
    assert len(on_disk) == len(rows)
    assert json.loads(on_disk[4])["tags"] == {"job": "7"}


@pytest.mark.parametrize(
    "tags",
    [
        [{"Key": "aws:mine", "Value": "x"}],
        [{"Key": "k" * 129, "Value": "x"}],
        [{"Key": "k", "Value": "v" * 257}],
        [{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}],
        [{"Key": f"k{n}", "Value": "1"} for n in range(51)],
    ],
)
def test_bad_tags_are_refused(ec2: Any, tags: list[dict[str, str]]) -> None:
    client = ec2.client()
    specification = [{"ResourceType": "volume", "Tags": tags}]
    with pytest.raises(ClientError):
        client.create_volume(AvailabilityZone="us-east-1a", Size=1, TagSpecifications=specification)
    with pytest.raises(ClientError):
        client.create_tags(Resources=[volume(client)], Tags=tags)
    with pytest.raises(ClientError):
        client.create_security_group(
            GroupName="g",
            Description="d",
            TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
        )


def test_tags_are_added_and_removed(ec2: Any) -> None:
    client = ec2.client()
    held = volume(client)
    client.create_tags(Resources=[held], Tags=[{"Key": "a", "Value": "1"}])
    found = client.describe_tags(Filters=[{"Name": "resource-id", "Values": [held]}])["Tags"]
    assert [(t["ResourceType"], t["Key"]) for t in found] == [("volume", "a")]
    client.delete_tags(Resources=[held], Tags=[{"Key": "a"}])
    assert client.describe_volumes(VolumeIds=[held])["Volumes"][0].get("Tags", []) == []
    with pytest.raises(ClientError) as caught:
        client.create_tags(Resources=["vol-0123456789abcdef0"], Tags=[{"Key": "a", "Value": ""}])
    assert caught.value.response["Error"]["Code"] == "InvalidVolume.NotFound"


def test_default_group_is_not_deleted(ec2: Any) -> None:
    client = ec2.client()
    group = client.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    with pytest.raises(ClientError) as caught:
        client.delete_security_group(GroupId=group)
    assert caught.value.response["Error"]["Code"] == "CannotDelete"


def test_second_ec2_starts_clean(start: Any) -> None:
    first = start()
    first.client().create_key_pair(KeyName="k")
    volume(first.client())
    first.ec2.close()
    second = start()
    assert second.client().describe_key_pairs()["KeyPairs"] == []
    assert second.client().describe_volumes()["Volumes"] == []
    assert ask(second.ec2, "ledger/live") == []


def test_all_regions_at_once(ec2: Any) -> None:
    regions = [r["RegionName"] for r in ec2.client().describe_regions()["Regions"]]
    source = ec2.client()
    snapshot = source.create_snapshot(VolumeId=volume(source))["SnapshotId"]
    waiter = source.get_waiter("snapshot_completed")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(SnapshotIds=[snapshot])
    clients = [ec2.client(region=region) for region in regions]
    failed: list[BaseException] = []

    def copy(client: Any) -> None:
        try:
            made = client.copy_snapshot(SourceRegion="us-east-1", SourceSnapshotId=snapshot)
            waiter = client.get_waiter("snapshot_completed")
            waiter.config.delay, waiter.config.max_attempts = 0.1, 4000
            waiter.wait(SnapshotIds=[made["SnapshotId"]])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=copy, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    live = [row for row in ask(ec2.ec2, "ledger/live") if row["kind"] == "snapshot"]
    assert len(live) == len(regions) + 1


def test_own_key_is_the_accounts(ec2: Any) -> None:
    said = ec2.client("sts").get_caller_identity()
    assert said["Arn"] == f"arn:aws:iam::{said['Account']}:root"
    assert said["UserId"] == said["Account"]


@pytest.mark.parametrize(
    ("service", "action", "params"),
    [
        ("sts", "get_session_token", {}),
        ("sts", "decode_authorization_message", {"EncodedMessage": "x"}),
        ("service-quotas", "list_services", {}),
        ("iam", "generate_service_last_accessed_details", {"Arn": "arn:aws:iam::1:user/ann"}),
        ("account", "list_regions", {}),
    ],
)
def test_what_other_services_lack_is_said_in_words(
    ec2: Any, service: str, action: str, params: dict[str, str]
) -> None:
    with pytest.raises(ClientError) as caught:
        getattr(ec2.client(service), action)(**params)
    error = caught.value.response["Error"]
    assert error["Code"] in ("UnsupportedOperation", "UnknownOperationException")
    assert "The lab's" in error["Message"]
