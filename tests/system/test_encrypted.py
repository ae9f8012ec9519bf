"""Encrypted AMIs by whole processes: `kill -9` in each new step, and the message of what is shared.

Follows fedimg/services/encrypted.py and fedimg/jobs/durable_steps.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from fedimg.store import rows
from lab.site import Site
from tests.plans import ask
from tests.system.builds import said
from tests.system.deployment import Deployment, unhurried
from tests.system.killed_worker import Call, killed_behind

REGIONS = ("us-east-1", "us-east-2")
STRANGER = "222222222222"
TYPES = ["hvm-gp3", "hvm-gp3-encrypted"]


def key(site: Site, region: str) -> str:
    """Make a KMS key of the account's in a region, and return its ARN."""
    session = boto3.Session(
        aws_access_key_id=site.ec2.key.id, aws_secret_access_key=site.ec2.key.secret
    )
    kms = session.client("kms", region_name=region, endpoint_url=site.ec2.url)
    return str(kms.create_key()["KeyMetadata"]["Arn"])


def encrypting(site: Site) -> Callable[[str], str]:
    """Return what lets a site's fedimg make encrypted AMIs for one other account."""
    keys = {region: key(site, region) for region in REGIONS}
    named = ", ".join(f"{json.dumps(region)} = {json.dumps(arn)}" for region, arn in keys.items())

    def configure(settings: str) -> str:
        return (
            f"{unhurried(settings)}\n[ec2.amis]\ntypes = {json.dumps(TYPES)}\n"
            f"[ec2.encryption]\nkeys = {{ {named} }}\n"
            f'[ec2.share]\naccounts = ["{STRANGER}"]\n'
        )

    return configure


def copying(call: Call) -> bool:
    return call.get("Action") == "CopySnapshot" and call.get("Encrypted") == "true"


def registering(call: Call) -> bool:
    return call.get("Action") == "RegisterImage" and "-encrypted-" in call.get("Name", "")


def booting(call: Call) -> bool:
    return call.get("Action") == "RunInstances" and "-encrypted" in json.dumps(dict(call))


def marking(call: Call) -> bool:
    return call.get("Action") == "CreateTags" and "fedimg:shared" in call.values()


def sharing(call: Call) -> bool:
    return call.get("Action") == "ModifyImageAttribute" and STRANGER in call.values()


@pytest.mark.parametrize(
    ("strikes", "nth"),
    [
        pytest.param(copying, 1, id="encrypting copy in the origin started, not recorded"),
        pytest.param(copying, 2, id="encrypting copy elsewhere started", marks=pytest.mark.long),
        pytest.param(registering, 1, id="encrypted AMI registered", marks=pytest.mark.long),
        pytest.param(booting, 1, id="encrypted AMI starts", marks=pytest.mark.long),
        pytest.param(marking, 1, id="marked, not yet shared", marks=pytest.mark.long),
        pytest.param(sharing, 1, id="shared, not recorded", marks=pytest.mark.long),
    ],
)
def test_worker_killed_in_each_step_makes_nothing_twice(
    tmp_path: Path, strikes: Callable[[Call], bool], nth: int
) -> None:
    with killed_behind(tmp_path / "site", REGIONS, encrypting, strikes, nth) as deployment:
        has_what_is_planned(deployment)
        deployment.heard.wait_for("image.share", 240, count=len(REGIONS))
        shared = said(deployment, "image.share")
        assert {m["extra"]["id"] for m in shared} == encrypted(deployment)
        assert all(message["extra"]["encrypted"] for message in shared)
        assert STRANGER not in json.dumps(shared)
        public = {m["extra"]["id"] for m in said(deployment, "image.publish")}
        assert not public & encrypted(deployment)


def encrypted(deployment: Deployment) -> set[str]:
    """Return the encrypted AMIs of the record."""
    return {row.ami for row in deployment.store().amis() if row.encrypted}


def has_what_is_planned(deployment: Deployment) -> None:
    """Expect one public and one shared AMI in each region, with a snapshot each, and no more."""
    live = deployment.live()
    by_kind: dict[str, list[tuple[str, bool]]] = {}
    for row in live:
        by_kind.setdefault(row["kind"], []).append((row["region"], row["public"]))
    expected = sorted((region, public) for region in REGIONS for public in (False, True))
    assert {kind: sorted(found) for kind, found in by_kind.items()} == {
        "image": expected,
        "snapshot": expected,
    }
    states = sorted(row.state for row in deployment.store().amis())
    assert states == sorted([rows.PUBLIC, rows.SHARED] * len(REGIONS))
    grants = [row for row in ask(deployment.site.ec2, "ledger") if row["kind"] == "grant"]
    made = {row["id"] for row in grants if row["event"] == "create"}
    assert made == {row["id"] for row in grants if row["event"] == "delete"}
