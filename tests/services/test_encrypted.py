"""Encrypted AMIs through EC2Service: copies, keys that do not fit, the boot check, the audience.

Follows fedimg/services/encrypted.py, fedimg/config/encryption.py, fedimg/aws/encryption_keys.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPES

from fedimg.aws import cleanup, encryption_keys, survey
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.preflight import Preflight
from fedimg.config import Check
from fedimg.diagnostics import Finding, Status
from fedimg.exceptions import EC2ServiceException, EC2TestException
from fedimg.images import AMI, Architecture, RawImage
from fedimg.services.region_addition import Encrypted, RegionAddition
from fedimg.services.rehearsal import rehearse
from fedimg.services.site import Coordination, Site
from fedimg.steps import Branch, Effect, PlainSteps
from fedimg.values.audience import Audience
from tests import plans
from tests.services.conftest import ORIGIN, PATIENCE, REGIONS, SITE, Lab, Recorder, until
from tests.services.policies import FILE, policy, user

FURTHER = "us-east-2"
#: The types of the acceptance: one snapshot for the first, one encrypted one for the others.
TYPES = ["hvm-gp3", "hvm-gp3-encrypted", "paravirtual-standard-encrypted"]
SMALL = ["hvm-gp3", "hvm-gp3-encrypted"]
UNUSABLE = "Given key ID is not accessible"


class PowerCut(BaseException):
    """An exception that nothing in fedimg expects."""


def long(value: str) -> Any:
    """Return a parameter of tests for which no change has to wait."""
    return pytest.param(value, marks=pytest.mark.long)


def cut() -> None:
    raise PowerCut


def kms(lab: Lab, region: str = ORIGIN) -> Any:
    return boto3.Session().client("kms", region)


def clean(lab: Lab, image: RawImage) -> None:
    """Remove what a job left, as the worker does; AMIs in others' reach stay, and no more."""
    limits = lab.settings().limits
    left = survey.leftovers(lab.clients, SITE, REGIONS, job=image.job)
    cleanup.remove(lab.clients, Waiter(limits, threading.Event()), left, limit=PATIENCE)
    kept = [row for row in lab.live() if row["tags"].get("fedimg:job") == image.job]
    assert {row["kind"] for row in kept} <= {"image", "snapshot"}
    for row in kept:
        marks = {"fedimg:shared", "fedimg:published"} & set(row["tags"])
        assert marks, row
    assert open_grants(lab) == 0


def open_grants(lab: Lab) -> int:
    """Return how many grants there are for volumes, in whatever account."""
    grants = [row for row in lab.ask("ledger") if row["kind"] == "grant"]
    made = {row["id"] for row in grants if row["event"] == "create"}
    return len(made - {row["id"] for row in grants if row["event"] == "delete"})


@pytest.fixture
def keys(lab: Lab) -> dict[str, str]:
    """Return a new key of the account's in each region, by its ARN."""
    return {region: str(kms(lab, region).create_key()["KeyMetadata"]["Arn"]) for region in REGIONS}


def settings(keys: dict[str, str], *regions: str, types: list[str] = SMALL) -> dict[str, Any]:
    named = list(regions or keys)
    return {
        "regions": named,
        "amis": {"types": types},
        "encryption": {"keys": {region: keys[region] for region in named}},
    }


def encrypted(observer: Recorder, what: str) -> list[AMI]:
    return [ami for ami in observer.amis(what) if ami.type.encrypted]


def snapshots(lab: Lab, image: RawImage, region: str) -> list[dict[str, Any]]:
    """Return the snapshots that the account has of an image in a region, the plain ones first."""
    shown = lab.ec2(region).describe_snapshots(
        OwnerIds=["self"], Filters=[{"Name": "tag:fedimg:job", "Values": [image.job]}]
    )["Snapshots"]
    return sorted(shown, key=lambda each: bool(each["Encrypted"]))


def test_encrypted_amis_are_made_of_one_more_copy_in_each_region(
    lab: Lab, keys: dict[str, str]
) -> None:
    image, observer = lab.image(), Recorder()
    result = lab.upload(image, observer, **settings(keys, types=TYPES))
    assert result.failed == {}
    raw = lab.raw().read_bytes()
    for region in REGIONS:
        plain, secret = snapshots(lab, image, region)
        assert (plain["Encrypted"], secret["Encrypted"]) == (False, True)
        assert secret["KmsKeyId"] == keys[region]
        assert lab.bytes_of(secret["SnapshotId"], len(raw)) == raw
        # EC2 has no PV-GRUB kernel in us-east-2.
        names = TYPES[1:] if region != FURTHER else TYPES[1:2]
        assert [str(ami.type) for ami in result.encrypted[region]] == names
        for ami in result.encrypted[region]:
            shown = lab.described(ami)
            assert not shown["Public"]
            (root,) = shown["BlockDeviceMappings"]
            assert root["Ebs"]["SnapshotId"] == ami.snapshot == secret["SnapshotId"]
            assert root["Ebs"]["Encrypted"]
        (public,) = result.published[region]
        assert (str(public.type), lab.described(public)["Public"]) == ("hvm-gp3", True)
    # The same bytes boot twice: without encryption, and with it.
    booted = [str(ami.type) for ami in observer.amis("test completed")]
    assert sorted(booted) == TYPES
    assert encrypted(observer, "published") == []
    shared = [ami.id for amis in result.encrypted.values() for ami in amis]
    assert sorted(ami.id for ami in observer.amis("shared")) == sorted(shared)
    for region in REGIONS:
        assert observer.words().split(f"{region} ")[-1].startswith("public")
    clean(lab, image)


@pytest.mark.parametrize("state", ["disabled", *map(long, ["deleting", "unknown"])])
def test_bad_key_fails_its_region_alone_and_leaves_nothing(
    lab: Lab, keys: dict[str, str], state: str
) -> None:
    spoil(lab, keys, FURTHER, state)
    image, observer = lab.image(), Recorder()
    result = lab.upload(image, observer, **settings(keys, ORIGIN, FURTHER))
    assert set(result.published) == {ORIGIN, FURTHER}
    assert set(result.encrypted) == {ORIGIN}
    (region,) = result.failed
    assert region == FURTHER
    told = result.failed[FURTHER]
    for words in (UNUSABLE, keys[FURTHER], FURTHER, "fedimg check", "fedimg retry"):
        assert words in told
    # Nobody tries it again before a person has corrected the key.
    assert (result.later, result.unknown) == ([], [])
    assert f"{FURTHER} failed for good" in observer.words()
    assert len(snapshots(lab, image, FURTHER)) == 1
    clean(lab, image)


def spoil(lab: Lab, keys: dict[str, str], region: str, state: str) -> None:
    """Make a region's key one that EC2 cannot use."""
    name = keys[region].rpartition("/")[2]
    if state == "unknown":
        keys[region] = keys[region].replace(name, "11111111-2222-3333-4444-555555555555")
    elif state == "disabled":
        kms(lab, region).disable_key(KeyId=name)
    else:
        kms(lab, region).schedule_key_deletion(KeyId=name, PendingWindowInDays=7)


def test_bad_key_in_the_origin_keeps_encrypted_amis_back_everywhere(
    lab: Lab, keys: dict[str, str]
) -> None:
    spoil(lab, keys, ORIGIN, "disabled")
    image = lab.image()
    result = lab.upload(image, **settings(keys, ORIGIN, FURTHER))
    assert set(result.published) == {ORIGIN, FURTHER}
    assert result.encrypted == {}
    assert UNUSABLE in result.failed[ORIGIN]
    assert f"not tested in {ORIGIN}" in result.failed[FURTHER]
    clean(lab, image)
    assert len(lab.live("snapshot")) == len(lab.live("image")) == 2


def test_key_that_is_disabled_late_fails_the_boot_check_of_encrypted_amis_alone(
    lab: Lab, keys: dict[str, str]
) -> None:
    image, observer = lab.image(), Recorder()
    observer.when[f"test started {ORIGIN} hvm-gp3-encrypted"] = lambda: spoil(
        lab, keys, ORIGIN, "disabled"
    )
    result = lab.upload(image, observer, **settings(keys, ORIGIN, FURTHER))
    assert set(result.published) == {ORIGIN, FURTHER}
    assert result.encrypted == {}
    assert set(result.failed) == {ORIGIN, FURTHER}
    assert "boot-check:hvm-gp3-encrypted" in result.failed[ORIGIN]
    assert f"the KMS key {keys[ORIGIN]}" in result.failed[ORIGIN]
    clean(lab, image)
    assert len(lab.live("snapshot")) == len(lab.live("image")) == 2


def test_encrypted_ami_that_fails_a_check_is_shared_nowhere(lab: Lab, keys: dict[str, str]) -> None:
    image, observer = lab.image(), Recorder()
    observer.when[f"test started {ORIGIN} hvm-gp3-encrypted"] = lambda: lab.web.put("fail", b"x")
    check = Check(name="fails later", command=f"! curl -sf {lab.web.address}/fail")
    result = lab.upload(image, observer, checks=[check], **settings(keys, ORIGIN, FURTHER))
    assert set(result.published) == {ORIGIN, FURTHER}
    assert result.encrypted == {}
    assert [ami.type.encrypted for ami in observer.amis("test failed")] == [True]
    assert set(result.failed) == {ORIGIN, FURTHER}
    clean(lab, image)
    assert len(lab.live("snapshot")) == len(lab.live("image")) == 2


TESTED_THERE: dict[str, Any] = {"test": {"shipped": [], "regions": ["eu-west-1"]}}


def test_region_whose_copy_fails_its_boot_check_gets_no_encrypted_amis(
    lab: Lab, keys: dict[str, str]
) -> None:
    image, observer = lab.image(), Recorder()
    lab.refuse({"eu-west-1": {"InstanceStart": "Internal error on launch"}})
    chosen = {**settings(keys, ORIGIN, "eu-west-1"), **TESTED_THERE}
    result = lab.upload(image, observer, **chosen)
    assert set(result.published) == set(result.encrypted) == {ORIGIN}
    assert "boot-check:eu-west-1:hvm" in result.failed["eu-west-1"]
    assert "eu-west-1 encrypt" not in observer.words()
    clean(lab, image)
    assert {row["region"] for row in lab.live()} == {ORIGIN}


def test_boot_group_that_fails_in_a_region_is_not_shared_there_as_encrypted_ami(
    lab: Lab, keys: dict[str, str]
) -> None:
    image, observer = lab.image(), Recorder()
    command = f"curl -sf {lab.web.address}/go"
    check = Check(name="goes", command=command, types=["paravirtual"])
    lab.web.put("go", b"")
    observer.when["test started eu-west-1 paravirtual"] = lambda: lab.web.files.pop("/go")
    types = ["hvm-gp3", "paravirtual-gp3", "hvm-gp3-encrypted", "paravirtual-gp3-encrypted"]
    chosen = {**settings(keys, ORIGIN, "eu-west-1", types=types), **TESTED_THERE}
    result = lab.upload(image, observer, checks=[check], **chosen)
    assert result.failed == {}
    made = {region: [str(each.type) for each in amis] for region, amis in result.encrypted.items()}
    assert made == {ORIGIN: types[2:], "eu-west-1": types[2:3]}
    dropped = [(ami.region, str(ami.type)) for ami in observer.amis("dropped")]
    assert sorted(dropped) == [("eu-west-1", types[1]), ("eu-west-1", types[3])]
    clean(lab, image)


def test_encrypted_amis_that_are_shared_are_not_made_again_for_plain_ones_that_were_refused(
    lab: Lab, keys: dict[str, str]
) -> None:
    image, chosen = lab.image(), settings(keys, ORIGIN)
    # With an empty audience nothing but the plain snapshot is modified.
    lab.refuse({ORIGIN: {"ModifySnapshotAttribute": "OperationNotPermitted"}})
    first = Recorder()
    with pytest.raises(EC2ServiceException, match="OperationNotPermitted"):
        lab.upload(image, first, **chosen)
    (shared,) = first.amis("shared")
    # The clean-up takes the plain snapshot, of which the encrypted one was made.
    clean(lab, image)
    assert [each["Encrypted"] for each in snapshots(lab, image, ORIGIN)] == [True]
    lab.refuse({})
    result = lab.upload(image, rerun=True, **chosen)
    assert result.failed == {}
    assert result.encrypted == {ORIGIN: [shared]}
    assert [each["Encrypted"] for each in snapshots(lab, image, ORIGIN)] == [False, True]
    clean(lab, image)


def test_final_failure_of_plain_amis_does_not_end_the_tries_for_the_encrypted(
    lab: Lab, keys: dict[str, str]
) -> None:
    image, observer = lab.image(), Recorder()
    lab.refuse({ORIGIN: {"ModifySnapshotAttribute": "OperationNotPermitted"}})
    observer.when[f"progress {ORIGIN} encrypt"] = lambda: lab.refuse(
        {ORIGIN: {"SnapshotCompletion": "Internal error"}}
    )
    with pytest.raises(EC2ServiceException) as caught:
        lab.upload(image, observer, **settings(keys, ORIGIN))
    assert caught.value.later
    told = str(caught.value)
    assert "OperationNotPermitted" in told.partition("; and of its encrypted AMIs: ")[0]
    assert "Internal error" in told.partition("; and of its encrypted AMIs: ")[2]
    lab.leaves_nothing(image)


def test_unforeseen_timeout_in_the_origin_ends_the_other_regions_waits(
    lab: Lab, keys: dict[str, str]
) -> None:
    def give_up() -> None:
        raise TimeoutError

    image, observer = lab.image(), Recorder()
    observer.when[f"progress {ORIGIN} register-encrypted"] = give_up
    with pytest.raises(TimeoutError):
        lab.upload(image, observer, **settings(keys, ORIGIN, FURTHER))
    clean(lab, image)


def test_audience_beyond_the_quota_is_refused_before_anything_is_encrypted_for_it(
    lab: Lab, keys: dict[str, str]
) -> None:
    image, observer = lab.image(), Recorder()
    share = {"accounts": [STRANGER, "333333333333"]}
    lab.account.sharing_quota(1)
    try:
        result = lab.upload(image, observer, share=share, **settings(keys, ORIGIN, FURTHER))
    finally:
        lab.account.sharing_quota(1000)
    assert set(result.published) == set(result.failed) == {ORIGIN, FURTHER}
    assert result.encrypted == {}
    for region in (ORIGIN, FURTHER):
        assert f"the quota of 1 of AMI sharing in {region}" in result.failed[region]
    assert observer.of("sharing") == []
    # The origin's boot, as the other regions may have higher quotas.
    assert [ami.region for ami in encrypted(observer, "test completed")] == [ORIGIN]
    assert len(snapshots(lab, image, FURTHER)) == 1
    clean(lab, image)


@pytest.mark.parametrize(
    "moment",
    [
        f"progress {ORIGIN} register-encrypted",
        f"progress {FURTHER} share",
        *map(
            long,
            [
                f"progress {ORIGIN} encrypt",
                f"test started {ORIGIN} hvm-gp3-encrypted",
                f"progress {ORIGIN} share",
                f"progress {FURTHER} encrypt",
                f"progress {FURTHER} register-encrypted",
            ],
        ),
    ],
)
def test_upload_that_was_cut_off_goes_on_without_a_second_copy(
    lab: Lab, keys: dict[str, str], moment: str
) -> None:
    image, observer = lab.image(), Recorder()
    observer.when[moment] = cut
    chosen = settings(keys, ORIGIN, FURTHER)
    with pytest.raises(PowerCut):
        lab.upload(image, observer, **chosen)
    result = lab.upload(image, Recorder(), rerun=True, **chosen)
    assert result.failed == {}
    for region in (ORIGIN, FURTHER):
        assert len(result.encrypted[region]) == len(result.published[region]) == 1
        assert len(snapshots(lab, image, region)) == 2
    assert len(lab.live("image")) == 4
    clean(lab, image)


def test_copy_whose_answer_is_lost_is_found_again_by_its_tags(
    lab: Lab, keys: dict[str, str]
) -> None:
    image, observer = lab.image(), Recorder()
    lost = {"action": "CopySnapshot", "region": ORIGIN, "fault": "reset", "late": True, "count": 1}
    plans.follow(lab, [lost])
    result = lab.upload(image, observer, **settings(keys, ORIGIN))
    assert plans.struck(lab) == [1]
    assert (result.failed, len(snapshots(lab, image, ORIGIN))) == ({}, 2)
    clean(lab, image)


def test_copy_that_fails_for_another_reason_is_made_again(lab: Lab, keys: dict[str, str]) -> None:
    image, observer = lab.image(), Recorder()
    observer.when[f"progress {ORIGIN} encrypt"] = lambda: plans.follow(
        lab,
        [
            {
                "action": "SnapshotCompletion",
                "region": ORIGIN,
                "fault": "failed",
                "message": "Internal error",
                "count": 1,
            }
        ],
    )
    result = lab.upload(image, observer, limits={"attempts": 2}, **settings(keys, ORIGIN))
    assert plans.struck(lab) == [1]
    assert (result.failed, len(snapshots(lab, image, ORIGIN))) == ({}, 2)
    clean(lab, image)


def test_image_that_fails_its_boot_check_leaves_no_encrypted_ami(
    lab: Lab, keys: dict[str, str]
) -> None:
    image = lab.image()
    check = Check(name="fails", command="/bin/false")
    with pytest.raises(EC2TestException):
        lab.upload(image, checks=[check], **settings(keys, ORIGIN, FURTHER))
    lab.leaves_nothing(image)


def test_region_without_a_key_gets_no_encrypted_amis_and_the_plan_says_so(
    lab: Lab, keys: dict[str, str]
) -> None:
    image = lab.image()
    # Of all regions that the account has, two are named: the settings name no `regions`.
    chosen = {
        "regions": [],
        "amis": {"types": TYPES},
        "encryption": {"keys": {region: keys[region] for region in (ORIGIN, FURTHER)}},
    }
    planned = lab.service(**chosen).plan(image)
    assert set(planned.encrypted) == set(planned.keys) == {ORIGIN, FURTHER}
    assert "names no key" in planned.left_out["eu-west-1"]
    assert "hvm-us-east-2-gp3-encrypted-0" in " ".join(planned.names(image)[FURTHER])
    assert list(map(str, planned.tested_encrypted)) == TYPES[1:]


# The audience


STRANGER = "222222222222"
TO_USE = ["kms:DescribeKey", "kms:CreateGrant", "kms:Decrypt", "kms:ReEncrypt*"]


def launched(ami: AMI, account: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Launch an AMI as another account, and return the instance when it runs, or is gone."""
    monkeypatch.setenv("MOTO_ACCOUNT_ID", account)
    try:
        ec2 = lab.ec2(ami.region)
        made = ec2.run_instances(
            ImageId=ami.id,
            MinCount=1,
            MaxCount=1,
            InstanceType="t3.micro",
            SubnetId=ec2.describe_subnets()["Subnets"][0]["SubnetId"],
        )
        id = made["Instances"][0]["InstanceId"]
        found: dict[str, Any] = {}

        def ended() -> bool:
            (group,) = ec2.describe_instances(InstanceIds=[id])["Reservations"]
            found.update(group["Instances"][0])
            return found["State"]["Name"] in ("running", "terminated")

        until(ended, "the instance")
        grants = open_grants(lab)
        ec2.terminate_instances(InstanceIds=[id])
        until(lambda: not open_grants(lab), "the end of the grant")
        return {**found, "grants": grants}
    finally:
        monkeypatch.delenv("MOTO_ACCOUNT_ID")


def let_use(lab: Lab, key: str) -> None:
    """Have a key's policy let the other account use it."""
    name = key.rpartition("/")[2]
    document = json.loads(kms(lab).get_key_policy(KeyId=name)["Policy"])
    document["Statement"].append(
        {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{STRANGER}:root"},
            "Action": TO_USE,
            "Resource": "*",
        }
    )
    kms(lab).put_key_policy(KeyId=name, PolicyName="default", Policy=json.dumps(document))


def test_audience_launches_what_the_keys_policy_lets_it_and_nobody_else_does(
    lab: Lab, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = lab.image()
    share = {"accounts": [STRANGER]}
    result = lab.upload(image, share=share, **settings(keys, ORIGIN))
    (ami,) = result.encrypted[ORIGIN]
    refused = launched(ami, STRANGER, lab, monkeypatch)
    assert refused["StateReason"]["Code"] == "Client.InternalError"
    let_use(lab, keys[ORIGIN])
    instance = launched(ami, STRANGER, lab, monkeypatch)
    assert (instance["State"]["Name"], instance["grants"]) == ("running", 1)
    # With nobody else the AMI is shared.
    with pytest.raises(ClientError, match="NotFound|AuthFailure"):
        launched(ami, "333333333333", lab, monkeypatch)
    clean(lab, image)


def test_private_site_shares_plain_and_encrypted_amis(lab: Lab, keys: dict[str, str]) -> None:
    image, observer = lab.image(), Recorder()
    share = {"accounts": [STRANGER]}
    chosen = settings(keys, ORIGIN, FURTHER)
    result = lab.upload(image, observer, public=False, share=share, **chosen)
    assert result.failed == {}
    assert {len(amis) for amis in result.encrypted.values()} == {1}
    assert len(observer.amis("shared")) == 4
    assert lab.public() == []
    clean(lab, image)


def test_image_is_added_to_a_region_with_its_encrypted_amis(lab: Lab, keys: dict[str, str]) -> None:
    image, observer = lab.image(), Recorder()
    first = lab.upload(image, **settings(keys, ORIGIN))
    site = Site(lab.settings(**settings(keys, ORIGIN, FURTHER)), SITE, (), lab.clients)
    addition = RegionAddition(site, Coordination())
    before = Encrypted(first.encrypted[ORIGIN], Audience((STRANGER,)))
    result = addition.add(
        image, [FURTHER], first.published[ORIGIN], observer, PlainSteps(), encrypted=before
    )
    assert result.failed == {}
    (public,), (secret,) = result.published[FURTHER], result.encrypted[FURTHER]
    assert (lab.described(public)["Public"], lab.described(secret)["Public"]) == (True, False)
    assert [(told.ami, told.detail) for told in observer.of("shared")] == [(secret, "1 account")]
    assert len(snapshots(lab, image, FURTHER)) == 2
    clean(lab, image)


class Noted(PlainSteps):
    """Steps that remember which of them may be taken."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def run(self, name: str, effect: Effect[Any]) -> Any:
        self.names.append(name)
        return effect()

    def fan_out(self, branches: Mapping[str, Branch[Any]], at_once: int) -> dict[str, Any]:
        self.names += [step for branch in branches.values() for step in branch.names]
        return PlainSteps().fan_out(branches, at_once)


def test_job_without_encrypted_types_has_the_steps_that_it_had_before(
    lab: Lab, keys: dict[str, str]
) -> None:
    image, steps = lab.image(), Noted()
    chosen = settings(keys, ORIGIN, FURTHER, types=["hvm-gp3"])
    lab.service(**chosen).upload(image, Recorder(), steps)
    assert steps.names == [
        "plan",
        "security-group",
        "write",
        "snapshot",
        "release",
        "register",
        "boot-check:hvm",
        f"publish:{ORIGIN}",
        f"copy:{FURTHER}",
        f"register:{FURTHER}",
        f"publish:{FURTHER}",
    ]
    clean(lab, image)


def test_later_run_boots_no_encrypted_ami_again(lab: Lab, keys: dict[str, str]) -> None:
    image, observer = lab.image(), Recorder()
    chosen = settings(keys, ORIGIN)
    first = lab.upload(image, **chosen)
    again = lab.upload(image, observer, rerun=True, **chosen)
    assert (again.failed, again.encrypted) == ({}, first.encrypted)
    assert observer.of("test started") == []
    assert len(snapshots(lab, image, ORIGIN)) == 2
    clean(lab, image)


def test_rehearsal_boots_encrypted_amis_too_and_leaves_nothing(
    lab: Lab, keys: dict[str, str]
) -> None:
    site = Site(lab.settings(**settings(keys, ORIGIN)), SITE, (), lab.clients)
    done = rehearse(site, lab.image(), ORIGIN)
    assert [str(ami.type) for ami in done.amis] == SMALL
    assert [str(each.ami.type) for each in done.booted] == SMALL
    assert lab.live() == []
    assert open_grants(lab) == 0


# What IAM has to allow


ENCRYPTION = FILE.parent / "aws-policy-encryption.json"
ACTIONS = ["", "kms:CreateGrant", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext"]


def allowed(without: str = "") -> dict[str, Any]:
    """Return the policy of a site that makes encrypted AMIs, without an action of KMS's."""
    text = ENCRYPTION.read_text()
    statements = json.loads(text.replace("mrk-00000000000000000000000000000000", "*"))["Statement"]
    for statement in statements:
        statement["Resource"] = statement["Resource"].replace("111122223333", "123456789012")
        given = statement["Action"]
        listed = [given] if isinstance(given, str) else given
        statement["Action"] = [each for each in listed if each != without]
    whole = policy()
    kept = [each for each in statements if each["Action"]]
    return {**whole, "Statement": [*whole["Statement"], *kept]}


def test_actions_of_the_policy_are_those_that_are_tried_one_by_one() -> None:
    statements = json.loads(ENCRYPTION.read_text())["Statement"]
    given = [each["Action"] for each in statements]
    actions = [each for one in given for each in ([one] if isinstance(one, str) else one)]
    assert sorted(actions) == ACTIONS[1:]


@pytest.mark.parametrize("without", ACTIONS)
def test_policy_allows_what_is_needed_and_no_more(
    lab: Lab, keys: dict[str, str], without: str
) -> None:
    mine, chosen = user(lab, allowed(without)).lab, settings(keys, ORIGIN)
    image, problems = lab.image(), []
    for finding in look(mine, chosen):
        problems += [finding.text] if finding.status is not Status.OK else []
    result = mine.upload(image, **chosen)
    problems += result.failed.values()
    clean(lab, image)
    assert bool(problems) == bool(without), problems


# What `fedimg check` finds


def look(lab: Lab, chosen: dict[str, Any], region: str = ORIGIN) -> list[Finding]:
    made = lab.settings(**chosen)
    audience = made.share.audience
    return encryption_keys.check_key(lab.clients, made.encryption, region, audience)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("disabled", "is Disabled"),
        ("deleting", "is PendingDeletion"),
        ("unknown", "NotFoundException"),
        ("signing", "is for SIGN_VERIFY"),
    ],
)
def test_check_refuses_keys_that_do_not_fit(
    lab: Lab, keys: dict[str, str], state: str, words: str
) -> None:
    if state == "signing":
        made = kms(lab).create_key(KeyUsage="SIGN_VERIFY", KeySpec="RSA_2048")
        keys[ORIGIN] = made["KeyMetadata"]["Arn"]
    else:
        spoil(lab, keys, ORIGIN, state)
    (finding,) = look(lab, settings(keys, ORIGIN))
    assert finding.status is Status.PROBLEM
    assert words in finding.text
    assert finding.hint


def test_check_refuses_the_key_that_aws_manages(lab: Lab, keys: dict[str, str]) -> None:
    # The account has it once it has been used.
    shown = kms(lab).describe_key(KeyId="alias/aws/ebs")["KeyMetadata"]
    keys[ORIGIN] = shown["Arn"]
    (finding,) = look(lab, settings(keys, ORIGIN))
    assert finding.status is Status.PROBLEM
    assert "managed by AWS" in finding.text


def test_check_takes_a_key_that_fedimg_may_use(lab: Lab, keys: dict[str, str]) -> None:
    (finding,) = look(lab, settings(keys, ORIGIN))
    assert finding.status is Status.OK


def test_check_warns_where_a_policy_cannot_be_judged(lab: Lab, keys: dict[str, str]) -> None:
    chosen = settings(keys, ORIGIN)
    for without in ACTIONS[2:]:
        (finding,) = look(user(lab, allowed(without)).lab, chosen)
        assert finding.status is Status.WARNING
        assert "cannot be judged" in finding.text


def test_check_tells_what_a_keys_policy_does_not_allow_the_audience(
    lab: Lab, keys: dict[str, str]
) -> None:
    chosen = {**settings(keys, ORIGIN), "share": {"accounts": [STRANGER]}}
    _, lacking = look(lab, chosen)
    assert lacking.status is Status.WARNING
    assert "1 of 1 accounts" in lacking.text
    assert STRANGER not in lacking.text
    let_use(lab, keys[ORIGIN])
    assert [each.status for each in look(lab, chosen)] == [Status.OK] * 2
    # The shipped policy does not let fedimg read the key's.
    _, unread = look(user(lab, allowed()).lab, chosen)
    assert unread.status is Status.OK
    assert "not compared with the audience, since fedimg may not read it" in unread.text


def test_check_looks_at_the_key_of_each_region_and_counts_public_types_alone(
    lab: Lab, keys: dict[str, str]
) -> None:
    spoil(lab, keys, FURTHER, "disabled")
    account = Preflight(lab.clients, lab.settings(**settings(keys, ORIGIN, FURTHER)))
    account.checks([Architecture.X86_64])["regions"]()
    found = {
        region: {each.name: each for each in look()}
        for region, look in account.region_checks().items()
    }
    assert found[ORIGIN]["KMS key"].status is Status.OK
    assert found[FURTHER]["KMS key"].status is Status.PROBLEM
    assert found[ORIGIN]["quota of public AMIs"].text.endswith("each image needs up to 1")


@pytest.mark.parametrize("virtualization", ["hvm", "paravirtual"])
def test_check_refuses_a_test_type_without_encrypted_volumes(
    lab: Lab, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch, virtualization: str
) -> None:
    # EC2 has no such type any more; its answers have the word for one.
    name = "t3.small" if virtualization == "hvm" else "m3.medium"
    ebs = INSTANCE_TYPES[name]["EbsInfo"]
    monkeypatch.setitem(ebs, "EncryptionSupport", "unsupported")
    account = Preflight(lab.clients, lab.settings(**settings(keys, ORIGIN, types=TYPES)))
    key = "test_type" if virtualization == "hvm" else "test_type_paravirtual"
    (finding,) = account.checks([Architecture.X86_64])[f"ec2.x86_64.{key}"]()
    assert finding.text == f"{name} has no encrypted volumes"
