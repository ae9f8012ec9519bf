"""Instance-store AMIs through EC2Service: the bundle, its copies, its boot check and its end.

Follows fedimg/services/bundling.py, fedimg/aws/write/bundle_writer.py,
fedimg/aws/bundle/objects.py, fedimg/config/instance_store.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fedimg.aws.bundle import listing, preflight
from fedimg.diagnostics import Status
from fedimg.exceptions import EC2ServiceException, EC2UtilityException
from tests.aws.bundle.unbundler import Pair, unbundle
from tests.services.bundled import (
    FURTHER,
    PowerCut,
    bundling_settings,  # noqa: F401 (fixture)
    clean,
    cut,
    keys,
    owner_pair,  # noqa: F401 (fixture)
    s3,
    written,
)
from tests.services.conftest import ORIGIN, SITE, Lab, Recorder
from tests.services.policies import FILE, policy, user


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


@pytest.mark.parametrize("lost", ["manifest", "part"])
def test_bundle_that_lacks_something_is_finished_without_what_is_there(
    lab: Lab, settings: dict[str, Any], lost: str
) -> None:
    image, observer = lab.image(size_mib=48, random_mib=12), Recorder()
    observer.when["registered"] = cut
    with pytest.raises(PowerCut):
        lab.upload(image, observer, **settings)
    manifest, first, second = sorted(keys(lab, ORIGIN))
    assert manifest.endswith(".manifest.xml")
    gone, part = (manifest, first) if lost == "manifest" else (first, second)
    s3(lab, ORIGIN).delete_object(Bucket=f"amis-{ORIGIN}", Key=gone)
    before = written(lab, part)
    lab.forget_calls()
    result = lab.upload(image, Recorder(), rerun=True, **settings)
    assert set(result.published) == {ORIGIN, FURTHER}
    assert written(lab, part) == before
    clean(lab, image, settings)


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
            listing.whole(s3(mine, FURTHER), f"amis-{FURTHER}", SITE, recorded)
            lab.ec2().deregister_image(ImageId=result.published[ORIGIN][1].id)
        clean(mine, image, settings)
    except (EC2ServiceException, ClientError) as error:
        problems.append(str(error))
    clean(lab, image, settings)
    if without:
        assert any("AccessDenied" in each for each in problems)
    else:
        assert problems == []
