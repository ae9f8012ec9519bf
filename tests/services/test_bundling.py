"""Instance-store AMIs through EC2Service: the bundle, its copies, its boot check and its end.

Follows fedimg/services/bundling.py, fedimg/aws/write/bundle_writer.py,
fedimg/aws/bundle/objects.py, fedimg/config/instance_store.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fedimg.aws import cleanup
from fedimg.aws.bundle import listing, preflight
from fedimg.aws.client.waiter import Waiter
from fedimg.diagnostics import Status
from fedimg.exceptions import EC2ServiceException, EC2UtilityException
from fedimg.images import RawImage
from tests.aws.bundle.unbundler import Pair, pair, unbundle
from tests.services.conftest import ORIGIN, REGIONS, SITE, Lab, Recorder
from tests.services.policies import FILE, policy, user

FURTHER = "eu-west-1"
TYPES = ["hvm-gp2", "hvm-instance"]


class PowerCut(BaseException):
    """An exception that nothing in fedimg expects."""


def cut() -> None:
    raise PowerCut


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("owner"), "owner")


@pytest.fixture
def settings(lab: Lab, owner: Pair, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Return settings with which instance-store AMIs are made; the buckets exist."""
    certificate = tmp_path / "ec2.pem"
    certificate.write_bytes(lab.account.certificate)
    for region in REGIONS:
        where: Any = {}
        if region != "us-east-1":
            where = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        s3(lab, region).create_bucket(
            Bucket=f"amis-{region}", ObjectOwnership="BucketOwnerPreferred", **where
        )
    yield {
        "write_via": "direct",
        "regions": [ORIGIN, FURTHER],
        "amis": {"types": TYPES},
        "instance_store": {
            "bucket": "amis-{region}",
            "signing_key": owner.key,
            "certificate": owner.certificate,
            "ec2_certificate": certificate,
        },
    }
    for region in REGIONS:
        for key in keys(lab, region):
            s3(lab, region).delete_object(Bucket=f"amis-{region}", Key=key)
        s3(lab, region).delete_bucket(Bucket=f"amis-{region}")


def s3(lab: Lab, region: str) -> Any:
    return lab.clients.client("s3", region)


def keys(lab: Lab, region: str) -> list[str]:
    found = s3(lab, region).list_objects_v2(Bucket=f"amis-{region}")
    return [each["Key"] for each in found.get("Contents", ())]


def clean(lab: Lab, image: RawImage, settings: dict[str, Any]) -> None:
    """Remove what a job left, as the worker does."""
    chosen = lab.settings(**settings)
    found = cleanup.leftovers(
        lab.clients, SITE, REGIONS, job=image.job, bucket=chosen.instance_store.bucket_in
    )
    waiter = Waiter(chosen.limits, threading.Event())
    cleanup.remove(lab.clients, waiter, found, limit=60)


def test_instance_store_amis_are_published_of_the_very_bytes(
    lab: Lab, owner: Pair, settings: dict[str, Any], tmp_path: Path
) -> None:
    image, observer = lab.image(streams=2), Recorder()
    types = ["hvm-gp2", "hvm-instance", "paravirtual-instance"]
    settings = settings | {"amis": {"types": types}}
    result = lab.upload(image, observer, **settings)
    assert result.failed == {}
    assert [told.detail for told in observer.of("test started")].count("hvm-instance") == 1
    raw = lab.raw().read_bytes()
    for region in (ORIGIN, FURTHER):
        assert [str(ami.type) for ami in result.published[region]] == types
        _, *bundled = result.published[region]
        for ami in bundled:
            shown = lab.described(ami)
            assert (shown["RootDeviceType"], shown["Public"]) == ("instance-store", True)
            bucket, _, key = shown["ImageLocation"].partition("/")
            assert (bucket, ami.snapshot) == (
                f"amis-{region}",
                f"s3://{bucket}/{key.rpartition('/')[0]}",
            )

        def read(name: str, region: str = region, folder: str = key.rpartition("/")[0]) -> bytes:
            found = s3(lab, region).get_object(Bucket=f"amis-{region}", Key=f"{folder}/{name}")
            return bytes(found["Body"].read())

        text = read(key.rpartition("/")[2])
        assert unbundle(text, read, owner, owner.key, "user", tmp_path) == raw
    clean(lab, image, settings)
    assert len([row for row in lab.live() if row["kind"] == "object"]) == 4
    assert not [row for row in lab.live() if row["kind"] == "instance"]


def test_bundle_that_was_cut_off_is_finished_without_what_is_there(
    lab: Lab, settings: dict[str, Any]
) -> None:
    image, observer = lab.image(), Recorder()
    observer.when["registered"] = cut
    with pytest.raises(PowerCut):
        lab.upload(image, observer, **settings)
    part, manifest = sorted(keys(lab, ORIGIN))[1], sorted(keys(lab, ORIGIN))[0]
    assert manifest.endswith(".manifest.xml")
    s3(lab, ORIGIN).delete_object(Bucket=f"amis-{ORIGIN}", Key=manifest)
    before = written(lab, part)
    lab.forget_calls()
    result = lab.upload(image, Recorder(), rerun=True, **settings)
    assert set(result.published) == {ORIGIN, FURTHER}
    assert written(lab, part) == before
    clean(lab, image, settings)


def written(lab: Lab, key: str) -> Any:
    return s3(lab, ORIGIN).head_object(Bucket=f"amis-{ORIGIN}", Key=key)["LastModified"]


def test_bundle_from_which_no_instance_starts_is_dropped_and_the_image_goes_on(
    lab: Lab, settings: dict[str, Any]
) -> None:
    image, observer = lab.image(), Recorder()

    def damage() -> None:
        part = next(key for key in keys(lab, ORIGIN) if ".part." in key)
        s3(lab, ORIGIN).put_object(
            Bucket=f"amis-{ORIGIN}", Key=part, Body=b"other", ACL="aws-exec-read"
        )

    observer.when[f"test started {ORIGIN} hvm-instance"] = damage
    result = lab.upload(image, observer, **settings)
    for region in (ORIGIN, FURTHER):
        assert [str(ami.type) for ami in result.published[region]] == ["hvm-gp2"]
    assert {str(ami.type) for ami in observer.amis("dropped")} == {"hvm-instance"}
    clean(lab, image, settings)
    assert keys(lab, ORIGIN) == keys(lab, FURTHER) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("absent", "bucket amis-us-east-1 does not exist"),
        ("no ACLs", "does not allow ACLs"),
        ("other key", "others may know it"),
    ],
)
def test_what_a_person_has_to_change_is_said(
    lab: Lab, settings: dict[str, Any], owner: Pair, change: str, words: str
) -> None:
    bucket = f"amis-{ORIGIN}"
    if change == "absent":
        s3(lab, ORIGIN).delete_bucket(Bucket=bucket)
    elif change == "no ACLs":
        s3(lab, ORIGIN).put_bucket_ownership_controls(
            Bucket=bucket,
            OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
        )
    else:
        owner.key.chmod(0o644)
    image = lab.image()
    try:
        with pytest.raises(EC2UtilityException, match=words) as failure:
            lab.upload(image, **settings)
    finally:
        owner.key.chmod(0o600)
        if change == "absent":
            s3(lab, ORIGIN).create_bucket(Bucket=bucket, ObjectOwnership="BucketOwnerPreferred")
    assert (failure.value.step, failure.value.region) == ("bundle", ORIGIN)
    clean(lab, image, settings)
    assert lab.live() == []


def test_failed_job_leaves_no_bundle(lab: Lab, settings: dict[str, Any]) -> None:
    image, observer = lab.image(), Recorder()
    observer.when[f"registered {ORIGIN}"] = cut
    with pytest.raises(PowerCut):
        lab.upload(image, observer, **settings)
    assert len(keys(lab, ORIGIN)) == 2
    clean(lab, image, settings)
    assert keys(lab, ORIGIN) == []
    assert lab.live() == []


def allowed(without: str = "") -> dict[str, Any]:
    """Return the policy of a site that makes instance-store AMIs, without an action of S3's."""
    text = (FILE.parent / "aws-policy-instance-store.json").read_text()
    text = text.replace("example-amis-", "amis-").replace("/prod/", f"/{SITE}/")
    statements = json.loads(text)["Statement"]
    for statement in statements:
        statement["Action"] = [each for each in statement["Action"] if each != without]
    whole = policy()
    return {**whole, "Statement": [*whole["Statement"], *statements]}


ACTIONS = [
    "",
    "s3:DeleteObject",
    "s3:GetBucketOwnershipControls",
    "s3:GetObject",
    "s3:ListBucket",
    "s3:PutObject",
    "s3:PutObjectAcl",
]


def test_actions_of_the_policy_are_those_that_are_tried_one_by_one() -> None:
    statements = json.loads((FILE.parent / "aws-policy-instance-store.json").read_text())
    actions = [each for one in statements["Statement"] for each in one["Action"]]
    assert sorted(actions) == ACTIONS[1:]


@pytest.mark.parametrize("without", ACTIONS)
def test_policy_allows_what_is_needed_and_no_more(
    lab: Lab, settings: dict[str, Any], without: str
) -> None:
    mine = user(lab, allowed(without)).lab
    image, problems = lab.image(), []
    chosen = lab.settings(**settings)
    for region in (ORIGIN, FURTHER):
        found = preflight.check_bucket(mine.clients, chosen.instance_store, region)
        problems += [each.text for each in found if each.status is not Status.OK]
    try:
        result = mine.upload(image, **settings)
        problems += result.failed.values()
        if not result.failed:
            recorded = [ami.snapshot for ami in result.published[FURTHER]]
            listing.whole(mine.clients, f"amis-{FURTHER}", SITE, FURTHER, recorded)
            lab.ec2().deregister_image(ImageId=result.published[ORIGIN][1].id)
        clean(mine, image, settings)
    except (EC2ServiceException, ClientError) as error:
        problems.append(str(error))
    clean(lab, image, settings)
    if without:
        assert any("AccessDenied" in each for each in problems)
    else:
        assert problems == []
