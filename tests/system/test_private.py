"""A private site by whole processes: `kill -9` around what is shared, and the audience's messages.

Follows fedimg/services/region_steps.py, fedimg/aws/share.py, fedimg/jobs/durable_steps.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import pytest

from fedimg.store import rows
from lab import leaks
from lab.site import Site
from tests.system.builds import announce_build, said
from tests.system.deployment import Deployment, unhurried
from tests.system.proxy import Proxy

REGIONS = ("us-east-1", "us-east-2")
STRANGER = "222222222222"
UNIT = "arn:aws:organizations::123456789012:ou/o-exampleorg1/ou-exam-12345678"

Call = Mapping[str, str]


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
    with Site(tmp_path / "site", regions=REGIONS) as site, Proxy(site.ec2.url) as proxy:
        site.environment["AWS_ENDPOINT_URL"] = proxy.url
        with site.bus.listen() as heard:
            deployment = Deployment(site, heard, private)
            struck: list[Call] = []
            striking = threading.Lock()

            def strike(action: str) -> bool:
                with striking:
                    due = [call for call in list(proxy.calls) if strikes(call)]
                    if struck or len(due) < nth:
                        return False
                    struck.append(due[-1])
                    deployment.kill("worker")
                    deployment.start_worker()
                return True

            proxy.after = strike
            try:
                deployment.start_worker()
                deployment.start_hub()
                announce_build(deployment)
                (job,) = deployment.ended()
                assert struck
                assert (job["state"], job["error"]) == ("complete", None)
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
                heard.wait_for("image.share", 240, count=len(REGIONS))
                shared = said(deployment, "image.share")
                assert {m["extra"]["id"] for m in shared} == {row.ami for row in recorded}
                assert all(m["extra"]["organizational_units"] == 1 for m in shared)
                everything = json.dumps([m["msg"] for m in heard.messages])
                assert STRANGER not in everything
                assert UNIT not in everything
                assert said(deployment, "image.publish") == []
            finally:
                deployment.close()
