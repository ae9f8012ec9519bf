"""A private site by whole processes: `kill -9` around what is shared, and the audience's messages.

Follows fedimg/services/region_steps.py, fedimg/aws/share.py, fedimg/jobs/durable_steps.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from fedimg.store import rows
from lab import leaks
from tests.system.builds import said
from tests.system.deployment import unhurried
from tests.system.killed_worker import Call, killed_behind

REGIONS = ("us-east-1", "us-east-2")
STRANGER = "222222222222"
UNIT = "arn:aws:organizations::123456789012:ou/o-exampleorg1/ou-exam-12345678"


def private(settings: str) -> str:
    """Let a site's fedimg make one private AMI a region, for another account and for a unit."""
    ours = unhurried(settings).replace("[ec2]\n", "[ec2]\npublic = false\n", 1)
    assert "public = false" in ours
    return (
        f'{ours}\n[ec2.amis]\ntypes = ["hvm-gp3"]\n'
        f'[ec2.share]\naccounts = ["{STRANGER}"]\norganizational_units = ["{UNIT}"]\n'
    )


def marking(call: Call) -> bool:
    return call.get("Action") == "CreateTags" and "fedimg:shared" in call.values()


def sharing_snapshot(call: Call) -> bool:
    return call.get("Action") == "ModifySnapshotAttribute" and STRANGER in call.values()


def sharing(call: Call) -> bool:
    return call.get("Action") == "ModifyImageAttribute" and STRANGER in call.values()


@pytest.mark.parametrize(
    ("strikes", "nth"),
    [
        pytest.param(marking, 1, id="marked, not yet shared", marks=pytest.mark.long),
        pytest.param(sharing_snapshot, 1, id="snapshot shared", marks=pytest.mark.long),
        pytest.param(sharing, 1, id="AMI shared, not recorded"),
        pytest.param(sharing, 2, id="shared elsewhere, not recorded", marks=pytest.mark.long),
    ],
)
def test_worker_killed_while_it_shares_leaves_nothing_out_and_tells_no_ids(
    tmp_path: Path, strikes: Callable[[Call], bool], nth: int
) -> None:
    with killed_behind(
        tmp_path / "site", REGIONS, lambda _site: private, strikes, nth
    ) as deployment:
        recorded = deployment.store().amis()
        assert [row.state for row in recorded] == [rows.SHARED] * len(REGIONS)
        live = deployment.live()
        assert not [row for row in live if row["public"]]
        kinds = sorted((row["kind"], row["region"]) for row in live)
        assert kinds == sorted(
            (kind, region) for kind in ("image", "snapshot") for region in REGIONS
        )
        record = [asdict(row) for row in recorded]
        assert leaks.forgotten(leaks.things(live), record) == []
        deployment.heard.wait_for("image.share", 240, count=len(REGIONS))
        shared = said(deployment, "image.share")
        assert {m["extra"]["id"] for m in shared} == {row.ami for row in recorded}
        assert all(m["extra"]["organizational_units"] == 1 for m in shared)
        everything = json.dumps([m["msg"] for m in deployment.heard.messages])
        assert STRANGER not in everything
        assert UNIT not in everything
        assert said(deployment, "image.publish") == []
