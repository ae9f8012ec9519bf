"""KMS keys: encrypted copies, who may use them, and another account's launches.

Follows lab/ec2/kms.py, lab/ec2/kms_keys.py and lab/ec2/iam/key_policies.py.
"""

import json
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

STRANGER = "222222222222"
TO_USE = ["kms:DescribeKey", "kms:CreateGrant", "kms:Decrypt", "kms:ReEncrypt*"]
UNUSABLE = "Given key ID is not accessible"


def refusal(call: Any, **params: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["Error"]["Code"])


def key(ec2: Any, region: str = "us-east-1", **params: Any) -> str:
    made = ec2.client("kms", region).create_key(**params)["KeyMetadata"]
    return str(made["Arn"])


def bytes_of(ec2: Any, id: str) -> Path:
    return Path(ec2.folder) / ("volumes" if id.startswith("vol") else "snapshots") / id


def plain(ec2: Any) -> str:
    """Return a snapshot that begins with `bytes`."""
    client = ec2.client()
    volume = client.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    waiter = client.get_waiter("volume_available")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(VolumeIds=[volume])
    with bytes_of(ec2, volume).open("r+b") as file:
        file.write(b"bytes")
    snapshot = str(client.create_snapshot(VolumeId=volume)["SnapshotId"])
    assert ended(client, snapshot)["State"] == "completed"
    return snapshot


def ended(client: Any, snapshot: str) -> dict[str, Any]:
    while True:
        shown = client.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]
        if shown["State"] != "pending":
            return dict(shown)
        time.sleep(0.05)


def copied(client: Any, snapshot: str, key: str) -> dict[str, Any]:
    made = client.copy_snapshot(
        SourceRegion="us-east-1", SourceSnapshotId=snapshot, Encrypted=True, KmsKeyId=key
    )
    return ended(client, made["SnapshotId"])


def registered(client: Any, snapshot: str) -> str:
    image = client.register_image(
        Name=f"encrypted {snapshot}",
        Architecture="x86_64",
        VirtualizationType="hvm",
        EnaSupport=True,
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot}}],
    )["ImageId"]
    while client.describe_images(ImageIds=[image])["Images"][0]["State"] != "available":
        time.sleep(0.05)
    return str(image)


def launched(client: Any, image: str) -> dict[str, Any]:
    subnet = client.describe_subnets()["Subnets"][0]["SubnetId"]
    id = client.run_instances(
        ImageId=image, MinCount=1, MaxCount=1, InstanceType="t3.micro", SubnetId=subnet
    )["Instances"][0]["InstanceId"]
    while True:
        shown = client.describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"][0]
        if shown["State"]["Name"] in ("running", "terminated"):
            return dict(shown)
        time.sleep(0.05)


def test_copy_is_encrypted_with_the_key_that_it_names(ec2: Any) -> None:
    client, made, snapshot = ec2.client(), key(ec2), plain(ec2)
    copy = copied(client, snapshot, made.rpartition("/")[2])
    assert (copy["State"], copy["Encrypted"], copy["KmsKeyId"]) == ("completed", True, made)
    assert bytes_of(ec2, copy["SnapshotId"]).read_bytes()[:5] == b"bytes"


@pytest.mark.parametrize("state", ["unknown", "elsewhere", "disabled", "deleting"])
def test_copy_with_an_unusable_key_fails_later(ec2: Any, state: str) -> None:
    kms, snapshot = ec2.client("kms"), plain(ec2)
    made = key(ec2, "eu-west-1" if state == "elsewhere" else "us-east-1")
    if state == "unknown":
        made = made.rpartition("/")[0] + "/11111111-2222-3333-4444-555555555555"
    elif state == "disabled":
        kms.disable_key(KeyId=made.rpartition("/")[2])
    elif state == "deleting":
        kms.schedule_key_deletion(KeyId=made.rpartition("/")[2], PendingWindowInDays=7)
    copy = copied(ec2.client(), snapshot, made)
    assert (copy["State"], copy["StateMessage"]) == ("error", UNUSABLE)


def test_awss_own_key_is_shown_as_such_and_what_it_encrypts_is_not_shared(ec2: Any) -> None:
    client = ec2.client()
    shown = ec2.client("kms").describe_key(KeyId="alias/aws/ebs")["KeyMetadata"]
    assert shown["KeyManager"] == "AWS"
    copy = copied(client, plain(ec2), "alias/aws/ebs")
    assert (copy["State"], copy["KmsKeyId"]) == ("completed", shown["Arn"])
    image = registered(client, copy["SnapshotId"])
    added = {"Add": [{"UserId": STRANGER}]}
    share = {"ImageId": image, "LaunchPermission": added}
    assert refusal(client.modify_image_attribute, **share) == "InvalidParameter"
    permission = {"SnapshotId": copy["SnapshotId"], "CreateVolumePermission": added}
    assert refusal(client.modify_snapshot_attribute, **permission) == "InvalidParameter"


def test_multi_region_key_encrypts_in_each_of_its_regions(ec2: Any) -> None:
    made = key(ec2, MultiRegion=True)
    ec2.client("kms").replicate_key(KeyId=made.rpartition("/")[2], ReplicaRegion="eu-west-1")
    there = made.replace("us-east-1", "eu-west-1")
    copy = copied(ec2.client(region="eu-west-1"), plain(ec2), there)
    assert (copy["State"], copy["KmsKeyId"]) == ("completed", there)


def user(ec2: Any, name: str, *kms: dict[str, Any]) -> Any:
    """Return the session of a user who may do everything on EC2, and on KMS what is given."""
    statements = [{"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}, *kms]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    made = ec2.ec2.user(name, policy)
    session = boto3.Session(aws_access_key_id=made.id, aws_secret_access_key=made.secret)
    return lambda service: session.client(
        service, region_name="us-east-1", endpoint_url=ec2.ec2.url
    )


def test_user_encrypts_with_two_permissions_and_no_less(ec2: Any) -> None:
    made, snapshot = key(ec2), plain(ec2)
    data_key = {
        "Effect": "Allow",
        "Action": "kms:GenerateDataKeyWithoutPlaintext",
        "Resource": made,
    }
    for_aws = {
        "Effect": "Allow",
        "Action": "kms:CreateGrant",
        "Resource": made,
        "Condition": {"Bool": {"kms:GrantIsForAWSResource": "true"}},
    }
    for number, granted in enumerate(([data_key], [for_aws], [])):
        client = user(ec2, f"less-{number}", *granted)("ec2")
        copy = copied(client, snapshot, made)
        assert (copy["State"], copy["StateMessage"]) == ("error", UNUSABLE)
    enough = user(ec2, "enough", data_key, for_aws)
    copy = copied(enough("ec2"), snapshot, made)
    assert copy["State"] == "completed"
    grant = {"KeyId": made, "GranteePrincipal": f"arn:aws:iam::{STRANGER}:root"}
    code = refusal(enough("kms").create_grant, **grant, Operations=["Decrypt"])
    assert code == "AccessDeniedException"
    assert refusal(enough("kms").describe_key, KeyId=made) == "AccessDeniedException"


def test_other_account_launches_only_what_the_keys_policy_lets_it(
    ec2: Any, monkeypatch: Any
) -> None:
    client, kms, made = ec2.client(), ec2.client("kms"), key(ec2)
    copy = copied(client, plain(ec2), made)
    image = registered(client, copy["SnapshotId"])
    client.modify_image_attribute(ImageId=image, LaunchPermission={"Add": [{"UserId": STRANGER}]})
    policy = json.loads(kms.get_key_policy(KeyId=made)["Policy"])

    def let(actions: list[str]) -> None:
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{STRANGER}:root"},
            "Action": actions,
            "Resource": "*",
        }
        given = json.dumps({**policy, "Statement": [*policy["Statement"], statement]})
        kms.put_key_policy(KeyId=made, PolicyName="default", Policy=given)

    def strangers_launch() -> dict[str, Any]:
        monkeypatch.setenv("MOTO_ACCOUNT_ID", STRANGER)
        try:
            return launched(client, image)
        finally:
            monkeypatch.delenv("MOTO_ACCOUNT_ID")

    refused = strangers_launch()
    assert refused["State"]["Name"] == "terminated"
    assert refused["StateReason"]["Code"] == "Client.InternalError"
    for missing in TO_USE:
        let([each for each in TO_USE if each != missing])
        assert strangers_launch()["State"]["Name"] == "terminated", missing
    let(TO_USE)
    running = strangers_launch()
    assert running["State"]["Name"] == "running"
    grants = [row for row in ledger(ec2) if row["kind"] == "grant" and row["account"] == STRANGER]
    born = {row["id"] for row in grants if row["event"] == "create"}
    over = {row["id"] for row in grants if row["event"] == "delete"}
    assert len(born - over) == 1
    monkeypatch.setenv("MOTO_ACCOUNT_ID", STRANGER)
    client.terminate_instances(InstanceIds=[running["InstanceId"]])
    waiter = client.get_waiter("instance_terminated")
    waiter.config.delay, waiter.config.max_attempts = 0.1, 4000
    waiter.wait(InstanceIds=[running["InstanceId"]])
    gone = {row["id"] for row in ledger(ec2) if (row["kind"], row["event"]) == ("grant", "delete")}
    assert born <= gone


def ledger(ec2: Any) -> list[dict[str, Any]]:
    return list(ec2.ec2._world.ledger.rows())


def test_image_is_shared_with_so_many_accounts_and_no_more(start: Any) -> None:
    from lab.ec2.world import Quotas

    ec2 = start(quotas=Quotas(image_sharing=2))
    client = ec2.client()
    image = registered(client, plain(ec2))
    ou = "arn:aws:organizations::111111111111:ou/o-abcdefghij/ou-abcd-12345678"
    entities = [{"UserId": STRANGER}, {"OrganizationalUnitArn": ou}]
    client.modify_image_attribute(ImageId=image, LaunchPermission={"Add": entities})
    shown = client.describe_image_attribute(ImageId=image, Attribute="launchPermission")
    assert shown["LaunchPermissions"] == entities
    more = {"ImageId": image, "LaunchPermission": {"Add": [{"UserId": "333333333333"}]}}
    assert refusal(client.modify_image_attribute, **more) == "ResourceLimitExceeded"
    quota = ec2.client("service-quotas").get_service_quota(
        ServiceCode="ec2", QuotaCode="L-70015FFA"
    )["Quota"]
    assert (quota["QuotaName"], quota["Value"]) == ("AMI sharing", 2.0)


def test_dry_run_tells_whether_a_call_would_succeed_and_makes_nothing(ec2: Any) -> None:
    made = key(ec2)
    allowed = {"Effect": "Allow", "Action": "kms:GenerateDataKey*", "Resource": made}
    for statements, code in (
        ([allowed], "DryRunOperationException"),
        ([], "AccessDeniedException"),
    ):
        kms = user(ec2, f"dry-{len(statements)}", *statements)("kms")
        call = kms.generate_data_key_without_plaintext
        assert refusal(call, KeyId=made, DryRun=True) == code
