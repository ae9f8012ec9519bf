"""Calls under IAM policies: which resources and condition keys each is judged by.

Follows lab/ec2/iam/*.py.
"""

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from lab.ec2.iam.documents import Malformed
from lab.ec2.server import EC2, Settings
from tests.lab.conftest import KEY, QUICK, SESSION, RecordedMachines, Site
from tests.plans import ask

ACCOUNT = "123456789012"
FORM = "application/x-www-form-urlencoded"
# Between two looks, in seconds.
SOON = {"Delay": 0.05}
LAUNCH = {"InstanceType": "m5.large", "MinCount": 1, "MaxCount": 1}


@pytest.fixture(scope="module")
def ec2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for all: every test makes users of its own, and things of its own."""
    folder, machines = tmp_path_factory.mktemp("ec2"), RecordedMachines()
    settings = Settings(folder, KEY, regions=("us-east-1", "eu-west-1"), delays=QUICK)
    with EC2(settings, machines) as running:
        yield Site(running, machines, folder)


@pytest.fixture(scope="module")
def utility(ec2: Site, tmp_path_factory: pytest.TempPathFactory) -> str:
    raw = tmp_path_factory.mktemp("raw") / "utility.raw"
    raw.write_bytes(b"boot")
    return ec2.ec2.default_image("us-east-1", raw, name="utility")


def allow(action: Any, resource: Any = "*", **condition: Any) -> dict[str, Any]:
    given = {"Effect": "Allow", "Action": action, "Resource": resource}
    return given | ({"Condition": condition} if condition else {})


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


@dataclass(frozen=True)
class User:
    """Whose calls are judged; calling it makes a client."""

    ec2: Site
    name: str
    key: str
    secret: str
    token: str | None = None

    def __call__(self, service: str = "ec2", region: str = "us-east-1") -> Any:
        return SESSION.client(
            service,
            region_name=region,
            endpoint_url=self.ec2.ec2.url,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            aws_session_token=self.token,
        )

    @property
    def arn(self) -> str:
        return f"arn:aws:iam::{ACCOUNT}:user/{self.name}"

    def judged(self, action: str) -> list[str]:
        """Return the types of the resources by which an action was judged, each time."""
        rows = ask(self.ec2.ec2, "decisions")
        return sorted(
            kind
            for row in rows
            if (row["caller"], row["action"]) == (self.arn, action)
            for kind in [row["resource"]] * row["count"]
        )


def user(ec2: Site, *statements: dict[str, Any]) -> User:
    """Make a user with these statements."""
    name = f"user-{secrets.token_hex(4)}"
    return User(ec2, name, *ec2.ec2.user(name, policy(*statements)))


def tagged(kind: str, **tags: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": pairs(**tags)}]


def pairs(**tags: str) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def refusal(call: Callable[..., Any], **given: Any) -> str:
    """EC2's words for a call that the caller may not make."""
    with pytest.raises(ClientError) as error:
        call(**given)
    response = error.value.response
    assert response["Error"]["Code"] == "UnauthorizedOperation"
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 403
    return str(response["Error"]["Message"])


def volume(ec2: Site, **tags: str) -> str:
    made = ec2.client().create_volume(
        AvailabilityZone="us-east-1a",
        Size=1,
        **({"TagSpecifications": tagged("volume", **tags)} if tags else {}),
    )
    ec2.client().get_waiter("volume_available").wait(
        VolumeIds=[made["VolumeId"]], WaiterConfig=SOON
    )
    return str(made["VolumeId"])


def snapshot(ec2: Site, **tags: str) -> str:
    given = {"TagSpecifications": tagged("snapshot", **tags)} if tags else {}
    made = ec2.client().create_snapshot(VolumeId=volume(ec2), **given)
    ec2.client().get_waiter("snapshot_completed").wait(
        SnapshotIds=[made["SnapshotId"]], WaiterConfig=SOON
    )
    return str(made["SnapshotId"])


def test_users_do_what_their_policies_allow_and_the_account_everything(ec2: Site) -> None:
    looker = user(ec2, allow("ec2:DescribeVolumes"))
    assert "Volumes" in looker().describe_volumes()
    words = refusal(looker().describe_images)
    assert words == (
        "You are not authorized to perform this operation. User: "
        f"{looker.arn} is not authorized to perform: "
        "ec2:DescribeImages because no identity-based policy allows the ec2:DescribeImages action"
    )
    assert ec2.client().describe_images(Owners=["self"])["Images"] == []


def test_refusal_names_the_resource_and_an_explicit_deny(ec2: Site) -> None:
    deny = {"Effect": "Deny", "Action": "ec2:DeleteVolume", "Resource": "*"}
    mine, id = user(ec2, allow("*"), deny)(), volume(ec2)
    assert refusal(mine.delete_volume, VolumeId=id).endswith(
        f"ec2:DeleteVolume on resource: arn:aws:ec2:us-east-1:{ACCOUNT}:volume/{id} "
        "with an explicit deny in an identity-based policy"
    )


LAUNCHED = ("image", "instance", "network-interface", "security-group", "subnet", "volume")


@pytest.mark.parametrize("missing", [None, *LAUNCHED])
def test_launch_is_judged_by_everything_it_touches(
    ec2: Site, utility: str, missing: str | None
) -> None:
    arns = [f"arn:aws:ec2:*:*:{kind}/*" for kind in LAUNCHED if kind != missing]
    mine = user(ec2, allow("ec2:RunInstances", arns))
    if missing is None:
        mine().run_instances(ImageId=utility, **LAUNCH)
        assert mine.judged("ec2:RunInstances") == list(LAUNCHED)
        return
    before = ec2.client().describe_instances()["Reservations"]
    words = refusal(mine().run_instances, ImageId=utility, **LAUNCH)
    assert f":{missing}/" in words
    assert len(ec2.client().describe_instances()["Reservations"]) == len(before)


def test_launch_with_a_key_pair_and_a_snapshot_is_judged_by_those_too(
    ec2: Site, utility: str
) -> None:
    ec2.client().create_key_pair(KeyName="mine")
    blank = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1}}
    taken = {"DeviceName": "/dev/sdg", "Ebs": {"SnapshotId": snapshot(ec2)}}
    mine = user(ec2, allow("ec2:RunInstances"))
    mine().run_instances(
        ImageId=utility, KeyName="mine", BlockDeviceMappings=[blank, taken], **LAUNCH
    )
    # One volume is the image's own.
    assert mine.judged("ec2:RunInstances") == sorted(
        [*LAUNCHED, "key-pair", "snapshot", "volume", "volume"]
    )


@pytest.mark.parametrize(
    ("kind", "condition", "given"),
    [
        ("instance", {"ec2:MetadataHttpTokens": "required"}, {"HttpTokens": "required"}),
        ("instance", {"ec2:MetadataHttpPutResponseHopLimit": "1"}, {"HttpPutResponseHopLimit": 1}),
    ],
)
def test_launch_is_judged_by_what_the_instance_will_be(
    ec2: Site, utility: str, kind: str, condition: dict[str, str], given: dict[str, Any]
) -> None:
    others = [f"arn:aws:ec2:*:*:{other}/*" for other in LAUNCHED if other != kind]
    mine = user(
        ec2,
        allow("ec2:RunInstances", others),
        allow("ec2:RunInstances", f"arn:aws:ec2:*:*:{kind}/*", StringEquals=condition),
    )()
    refusal(mine.run_instances, ImageId=utility, **LAUNCH)
    assert mine.run_instances(ImageId=utility, MetadataOptions=given, **LAUNCH)["Instances"]


@pytest.mark.parametrize("create_action", ["CreateVolume", "RunInstances"])
def test_tags_at_creation_need_createtags_for_that_action(ec2: Site, create_action: str) -> None:
    mine = user(
        ec2,
        allow("ec2:CreateVolume"),
        allow("ec2:CreateTags", StringEquals={"ec2:CreateAction": create_action}),
    )()
    given = {"AvailabilityZone": "us-east-1a", "Size": 1}
    made = mine.create_volume(**given)
    assert "ec2:CreateTags on" in refusal(
        mine.create_tags, Resources=[made["VolumeId"]], Tags=pairs(site="mine")
    )
    wanted = tagged("volume", site="mine")
    if create_action == "CreateVolume":
        assert mine.create_volume(TagSpecifications=wanted, **given)["VolumeId"]
    else:
        words = refusal(mine.create_volume, TagSpecifications=wanted, **given)
        assert f"ec2:CreateTags on resource: arn:aws:ec2:us-east-1:{ACCOUNT}:volume/*" in words


def test_requested_tags_and_existing_tags_are_different_condition_keys(ec2: Site) -> None:
    held, bare = volume(ec2, site="mine"), volume(ec2)
    mine = user(
        ec2,
        allow("ec2:DeleteVolume", StringEquals={"aws:ResourceTag/site": "mine"}),
        allow(
            "ec2:CreateTags",
            StringEquals={"aws:RequestTag/site": "mine"},
            **{"ForAllValues:StringEquals": {"aws:TagKeys": ["site"]}},
        ),
    )()
    refusal(mine.delete_volume, VolumeId=bare)
    refusal(mine.create_tags, Resources=[bare], Tags=pairs(site="yours"))
    refusal(mine.create_tags, Resources=[bare], Tags=pairs(site="mine", more="x"))
    mine.create_tags(Resources=[bare], Tags=pairs(site="mine"))
    for id in (held, bare):
        mine.delete_volume(VolumeId=id)


def test_deleted_resource_has_no_tags_that_could_allow_a_call(ec2: Site) -> None:
    id = volume(ec2, site="mine")
    ec2.client().delete_volume(VolumeId=id)
    by_tag = user(ec2, allow("ec2:DeleteVolume", StringEquals={"ec2:ResourceTag/site": "mine"}))()
    assert id in refusal(by_tag.delete_volume, VolumeId=id)
    with pytest.raises(ClientError, match=r"InvalidVolume\.NotFound"):
        user(ec2, allow("ec2:DeleteVolume"))().delete_volume(VolumeId=id)


def test_snapshot_is_judged_by_its_volume_and_itself(ec2: Site) -> None:
    id = volume(ec2, site="mine")
    of_volume = allow("ec2:CreateSnapshot", "arn:aws:ec2:*:*:volume/*")
    of_snapshot = allow("ec2:CreateSnapshot", "arn:aws:ec2:*::snapshot/*")
    assert ":snapshot/*" in refusal(user(ec2, of_volume)().create_snapshot, VolumeId=id)
    assert f":volume/{id}" in refusal(user(ec2, of_snapshot)().create_snapshot, VolumeId=id)
    assert user(ec2, of_volume, of_snapshot)().create_snapshot(VolumeId=id)["SnapshotId"]


def test_copy_is_judged_by_its_source_where_that_is_and_by_itself(ec2: Site) -> None:
    id = snapshot(ec2, site="mine")
    given = {"SourceRegion": "us-east-1", "SourceSnapshotId": id}
    copy = allow("ec2:CopySnapshot", "arn:aws:ec2:eu-west-1::snapshot/${*}")
    source = allow("ec2:CopySnapshot", "arn:aws:ec2:us-east-1::snapshot/snap-*")
    alone = user(ec2, copy)("ec2", "eu-west-1")
    assert f"arn:aws:ec2:us-east-1::snapshot/{id}" in refusal(alone.copy_snapshot, **given)
    # The reference gives the source no tags to go by.
    tags = {"StringEquals": {"aws:ResourceTag/site": "mine"}}
    refusal(
        user(ec2, copy, source | {"Condition": tags})("ec2", "eu-west-1").copy_snapshot, **given
    )
    assert user(ec2, copy, source)("ec2", "eu-west-1").copy_snapshot(**given)["SnapshotId"]


def test_image_is_judged_by_its_snapshots_and_itself(ec2: Site) -> None:
    id = snapshot(ec2)
    given = {
        "Name": "an image",
        "VirtualizationType": "hvm",
        "Architecture": "x86_64",
        "RootDeviceName": "/dev/sda1",
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": id}}],
    }
    image = allow("ec2:RegisterImage", "arn:aws:ec2:*::image/*")
    assert f"::snapshot/{id}" in refusal(user(ec2, image)().register_image, **given)
    made = allow("ec2:RegisterImage", f"arn:aws:ec2:*::snapshot/{id}")
    assert "::image/*" in refusal(user(ec2, made)().register_image, **given)
    assert user(ec2, image, made)().register_image(**given)["ImageId"]


def test_accounts_that_a_snapshot_is_shared_with_can_be_limited(ec2: Site) -> None:
    id = snapshot(ec2)
    mine = user(
        ec2,
        allow(
            "ec2:ModifySnapshotAttribute",
            StringEquals={"ec2:Add/group": "all"},
            Null={"ec2:Add/userId": "true"},
        ),
    )()
    given = {"SnapshotId": id, "Attribute": "createVolumePermission"}
    for add in ({"UserId": "210987654321"},), ({"Group": "all"}, {"UserId": "210987654321"}):
        change = {"CreateVolumePermission": {"Add": list(add)}}
        refusal(mine.modify_snapshot_attribute, **given, **change)
    mine.modify_snapshot_attribute(**given, CreateVolumePermission={"Add": [{"Group": "all"}]})


def test_security_groups_are_judged_by_vpc_tags_and_name(ec2: Site) -> None:
    mine = user(
        ec2,
        allow("ec2:CreateSecurityGroup", "arn:aws:ec2:*:*:vpc/*"),
        allow(
            "ec2:CreateSecurityGroup",
            "arn:aws:ec2:*:*:security-group/*",
            StringEquals={"aws:RequestTag/site": "mine"},
        ),
        allow("ec2:CreateTags"),
        allow("ec2:DeleteSecurityGroup", StringEquals={"aws:ResourceTag/site": "mine"}),
    )()
    given = {"GroupName": "mine", "Description": "mine"}
    refusal(mine.create_security_group, **given)
    mine.create_security_group(TagSpecifications=tagged("security-group", site="mine"), **given)
    ec2.client().create_security_group(GroupName="theirs", Description="theirs")
    refusal(mine.delete_security_group, GroupName="theirs")
    mine.delete_security_group(GroupName="mine")


def test_dry_run_tells_whether_a_call_is_allowed(ec2: Site, utility: str) -> None:
    allowed = user(ec2, allow("ec2:RunInstances"))()
    with pytest.raises(ClientError, match="DryRunOperation"):
        allowed.run_instances(ImageId=utility, DryRun=True, **LAUNCH)
    refusal(
        user(ec2, allow("ec2:Describe*"))().run_instances, ImageId=utility, DryRun=True, **LAUNCH
    )


def test_regions_can_be_limited(ec2: Site) -> None:
    mine = user(ec2, allow("ec2:*", StringEquals={"aws:RequestedRegion": "eu-west-1"}))
    assert "Volumes" in mine("ec2", "eu-west-1").describe_volumes()
    refusal(mine("ec2", "us-east-1").describe_volumes)


def test_blocks_are_judged_by_their_snapshot(ec2: Site) -> None:
    mine = user(
        ec2,
        allow("ebs:StartSnapshot", StringEquals={"aws:RequestTag/site": "mine"}),
        allow("ec2:CreateTags", StringEquals={"ec2:CreateAction": "StartSnapshot"}),
        allow("ebs:CompleteSnapshot", StringEquals={"aws:ResourceTag/site": "mine"}),
    )("ebs")
    words = "is not authorized to perform: ebs:"
    with pytest.raises(ClientError, match=rf"AccessDenied.*{words}StartSnapshot"):
        mine.start_snapshot(VolumeSize=1)
    started = mine.start_snapshot(VolumeSize=1, Tags=pairs(site="mine"))["SnapshotId"]
    theirs = ec2.client("ebs").start_snapshot(VolumeSize=1)["SnapshotId"]
    with pytest.raises(ClientError, match=rf"{words}CompleteSnapshot on .*{theirs}"):
        mine.complete_snapshot(SnapshotId=theirs, ChangedBlocksCount=0)
    mine.complete_snapshot(SnapshotId=started, ChangedBlocksCount=0)


def test_quotas_are_read_only_with_permission(ec2: Site) -> None:
    asked = {"ServiceCode": "ec2", "QuotaCode": "L-0E3CBAB9"}
    allowed = user(ec2, allow("servicequotas:GetServiceQuota"))("service-quotas")
    assert allowed.get_service_quota(**asked)["Quota"]["Value"]
    with pytest.raises(ClientError, match="AccessDenied"):
        user(ec2, allow("ec2:*"))("service-quotas").get_service_quota(**asked)


def test_roles_and_groups_have_their_policies(ec2: Site) -> None:
    iam = ec2.client("iam")
    trust = policy({"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}})
    role = iam.create_role(RoleName="worker", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    looks = policy(allow("ec2:DescribeVolumes"))
    iam.put_role_policy(RoleName="worker", PolicyName="looks", PolicyDocument=looks)
    given = ec2.client("sts").assume_role(RoleArn=role, RoleSessionName="session")["Credentials"]
    as_role = User(
        ec2, "worker", given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]
    )()
    assert "Volumes" in as_role.describe_volumes()
    assert ":assumed-role/worker/session is not" in refusal(as_role.describe_images)

    iam.create_user(UserName="ann")
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    ann = User(ec2, "ann", key["AccessKeyId"], key["SecretAccessKey"])()
    refusal(ann.describe_volumes)
    iam.create_group(GroupName="lookers")
    iam.put_group_policy(GroupName="lookers", PolicyName="looks", PolicyDocument=looks)
    iam.add_user_to_group(GroupName="lookers", UserName="ann")
    assert "Volumes" in ann.describe_volumes()


def denied(call: Callable[..., Any], words: str = "", **given: Any) -> None:
    """Expect a refusal in the form of IAM, STS and S3, with these words in it."""
    with pytest.raises(ClientError) as error:
        call(**given)
    response = error.value.response
    assert response["Error"]["Code"] in ("AccessDenied", "AccessDeniedException", "403")
    assert words in response["Error"].get("Message", "")


def test_iam_calls_are_judged_by_the_resource_that_they_act_on(ec2: Site) -> None:
    ann = user(
        ec2,
        allow(["iam:CreateUser", "iam:TagUser"], f"arn:aws:iam::{ACCOUNT}:user/mine/*"),
        allow("iam:CreateAccessKey", f"arn:aws:iam::{ACCOUNT}:user/${{aws:username}}"),
        allow(
            "iam:AttachUserPolicy",
            StringEquals={"iam:PolicyARN": f"arn:aws:iam::{ACCOUNT}:policy/narrow"},
        ),
        allow("iam:AddUserToGroup", f"arn:aws:iam::{ACCOUNT}:group/readers"),
        allow("iam:DeleteUser", StringEquals={"aws:ResourceTag/site": "mine"}),
    )
    mine, iam = ann("iam"), ec2.client("iam")
    where = f"iam:CreateUser on resource: arn:aws:iam::{ACCOUNT}:user/bob because no identity-based"
    denied(mine.create_user, where, UserName="bob")
    mine.create_user(UserName="bob", Path="/mine/")
    # What is there has its own path, whichever the request gives.
    iam.create_user(UserName="carl")
    denied(mine.tag_user, UserName="carl", Tags=pairs(site="mine"))
    mine.tag_user(UserName="bob", Tags=pairs(site="mine"))
    denied(mine.list_users, "iam:ListUsers because")

    # A user who is not named is the caller; a key of another's would be a way out.
    denied(mine.create_access_key, UserName="bob")
    mine.create_access_key()

    documents = {name: policy(allow("ec2:*")) for name in ("narrow", "wide")}
    arns = {
        name: iam.create_policy(PolicyName=name, PolicyDocument=text)["Policy"]["Arn"]
        for name, text in documents.items()
    }
    denied(mine.attach_user_policy, UserName=ann.name, PolicyArn=arns["wide"])
    mine.attach_user_policy(UserName=ann.name, PolicyArn=arns["narrow"])
    for name in ("readers", "writers"):
        iam.create_group(GroupName=name)
    denied(mine.add_user_to_group, GroupName="writers", UserName=ann.name)
    mine.add_user_to_group(GroupName="readers", UserName=ann.name)
    denied(mine.delete_user, UserName="carl")
    mine.delete_user(UserName="bob")
    assert ann.judged("iam:AddUserToGroup") == ["group", "group"]


def test_denial_in_iam_wins(ec2: Site) -> None:
    boss = f"arn:aws:iam::{ACCOUNT}:user/boss"
    deny = {"Effect": "Deny", "Action": "iam:*", "Resource": boss}
    mine = user(ec2, allow("iam:*"), deny)("iam")
    ec2.client("iam").create_user(UserName="boss")
    assert mine.list_users()["Users"]
    denied(mine.create_access_key, "with an explicit deny", UserName="boss")


@pytest.mark.parametrize(
    ("query", "body", "content_type"),
    [
        ("Action=GetUser&Version=2010-05-08", "Action=ListUsers&Version=2010-05-08", FORM),
        ("", "Action=ListUsers&Action=GetUser&Version=2010-05-08", FORM),
        ("", "Action=listUsers&Version=2010-05-08", FORM),
        ("", "Action=ListUsers&Version=2010-05-08", "text/plain"),
        ("", "Version=2010-05-08", FORM),
    ],
)
def test_ambiguous_request_is_refused(ec2: Site, query: str, body: str, content_type: str) -> None:
    mine = user(ec2, allow("iam:*"))
    url = f"{ec2.ec2.url}/?{query}".rstrip("?")
    asked = AWSRequest("POST", url, {"Content-Type": content_type}, body)
    SigV4Auth(Credentials(mine.key, mine.secret), "iam", "us-east-1").add_auth(asked)
    answer = requests.post(url, body, headers=dict(asked.headers.items()), timeout=60)
    assert answer.status_code == 403
    assert "<Code>AccessDenied</Code>" in answer.text


def test_call_is_judged_by_the_action_that_it_performs(ec2: Site) -> None:
    """Of a group in the URL and another in the body, one would be judged and one removed."""
    made = ec2.client().create_security_group(GroupName="judged", Description="d")["GroupId"]
    mine = user(ec2, allow("ec2:DescribeSecurityGroups"))
    url = f"{ec2.ec2.url}/?Action=DeleteSecurityGroup&GroupId={made}&Version=2016-11-15"
    body = "Action=DescribeSecurityGroups&Version=2016-11-15"
    asked = AWSRequest("POST", url, {"Content-Type": FORM}, body)
    SigV4Auth(Credentials(mine.key, mine.secret), "ec2", "us-east-1").add_auth(asked)
    answer = requests.post(url, body, headers=dict(asked.headers.items()), timeout=60)
    assert "<Code>MalformedQueryString</Code>" in answer.text
    assert ec2.client().describe_security_groups(GroupIds=[made])["SecurityGroups"]


def test_roles_are_assumed_only_with_permission(ec2: Site) -> None:
    role = f"arn:aws:iam::{ACCOUNT}:role/"
    mine = user(ec2, allow("sts:AssumeRole", f"{role}mine"))("sts")
    assert mine.get_caller_identity()["Account"] == ACCOUNT
    denied(mine.assume_role, RoleArn=f"{role}other", RoleSessionName="session")
    given = mine.assume_role(RoleArn=f"{role}mine", RoleSessionName="session")["Credentials"]
    # There is no such role, and so it may do nothing.
    keys = given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]
    refusal(User(ec2, "mine", *keys)().describe_volumes)


def test_s3_is_judged_by_bucket_and_object(ec2: Site) -> None:
    everything = ec2.client("s3")
    for name in ("open", "shut"):
        everything.create_bucket(Bucket=name)
        everything.put_object(Bucket=name, Key="a/b", Body=b"text")
    mine = user(
        ec2,
        allow("s3:ListBucket", "arn:aws:s3:::open"),
        allow(["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], "arn:aws:s3:::open/a/*"),
    )("s3")
    assert mine.get_object(Bucket="open", Key="a/b")["Body"].read() == b"text"
    assert mine.list_objects_v2(Bucket="open", Prefix="a")["KeyCount"] == 1
    assert mine.head_object(Bucket="open", Key="a/b")["ContentLength"] == 4
    about = {"Bucket": "open", "Key": "a/large"}
    upload = mine.create_multipart_upload(**about)["UploadId"]
    tag = mine.upload_part(**about, UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
    mine.complete_multipart_upload(**about, UploadId=upload, MultipartUpload=parts)
    both = {"Objects": [{"Key": "a/large"}, {"Key": "c"}]}
    denied(mine.delete_objects, Bucket="open", Delete=both)
    mine.delete_objects(Bucket="open", Delete={"Objects": both["Objects"][:1]})
    denied(mine.get_object, "s3:GetObject on resource: arn:aws:s3:::open/c", Bucket="open", Key="c")
    denied(mine.head_object, Bucket="shut", Key="a/b")
    denied(mine.list_objects_v2, Bucket="shut")
    denied(mine.list_buckets)
    stolen = {"Bucket": "shut", "Key": "a/b"}
    denied(mine.copy_object, Bucket="open", Key="a/c", CopySource=stolen)
    denied(mine.get_bucket_acl, "The lab knows no policies", Bucket="open")
    assert everything.list_buckets()["Buckets"]


def test_services_without_known_policies_are_for_the_accounts_keys_only(ec2: Site) -> None:
    mine = user(ec2, allow("*"))("sns")
    denied(mine.list_topics, "sns, of which the lab evaluates no policies")
    assert ec2.client("sns").list_topics()["Topics"] == []


@pytest.mark.parametrize(
    "text",
    ["{", policy(allow("ec2:*", StringMatches={"aws:x": "y"})), policy(allow("ec2:*", "i-1"))],
)
def test_policy_that_cannot_be_evaluated_makes_no_user(ec2: Site, text: str) -> None:
    with pytest.raises(Malformed):
        ec2.ec2.user("nobody", text)
