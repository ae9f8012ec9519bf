"""A region that appears later: new jobs go there, and `retry JOB --region` brings old ones.

Follows fedimg/services/region_addition.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.plans import ask, follow
from tests.system.builds import announce_build, said
from tests.system.deployment import AMIS, Deployment, deployed, unhurried

NEW = "eu-west-1"
BEFORE = {region: count for region, count in AMIS.items() if region != NEW}


def everywhere(settings: str) -> str:
    """Publish in every region that the account has enabled, and try again soon."""
    limits = "[ec2.limits]\nsettle = 3\nretry_after = 1\n"
    settings = unhurried(settings).replace("[ec2.limits]\n", limits)
    return re.sub(r"(?m)^regions = .*\n", "", settings)


def of_job(deployment: Deployment, job: str) -> list[dict[str, Any]]:
    """Return what a job ever made in the new region."""
    return [
        row
        for row in ask(deployment.site.ec2, "ledger")
        if (row["event"], row["region"], row["tags"].get("fedimg:job")) == ("create", NEW, job)
    ]


@pytest.mark.long
def test_region_that_appears_gets_new_jobs_by_itself_and_old_ones_by_command(
    tmp_path: Path,
) -> None:
    with deployed(tmp_path / "site", configure=everywhere) as deployment:
        ec2 = deployment.site.ec2
        ec2.disable(NEW)
        announce_build(deployment)
        (old,) = deployment.ended()
        assert old["state"] == "complete"
        deployment.nothing_but_published(BEFORE)

        # It is not there yet; the command says so.
        refused = deployment.fedimg("retry", old["job"], "--region", NEW, status=2)
        assert f"the account has not enabled a region {NEW}" in refused["error"]

        # It is gone again when the job begins, which harms nothing that is public.
        deployment.kill("worker")
        ec2.enable(NEW)
        deployment.fedimg("retry", old["job"], "--region", NEW)
        ec2.disable(NEW)
        deployment.start_worker()
        (row,) = deployment.ended()
        assert row["state"] == "incomplete"
        assert NEW in row["error"]
        assert "next" not in row
        deployment.nothing_but_published(BEFORE)

        # The worker is killed when the copy is made and not recorded.
        ec2.enable(NEW)
        follow(ec2, [{"fault": "slow", "seconds": 3, "action": "DescribeSnapshots", "region": NEW}])
        deployment.fedimg("retry", old["job"], status=None)
        deployment.until(lambda: of_job(deployment, old["job"]) or None, "the copy made")
        deployment.kill("worker")
        follow(ec2, [])
        deployment.start_worker()
        deployment.until(
            lambda: deployment.store().job(old["job"]).state == "complete" or None, "complete"
        )
        (row,) = deployment.ended()
        assert row["error"] is None
        deployment.nothing_but_published(AMIS)
        made = [each["kind"] for each in of_job(deployment, old["job"])]
        assert sorted(made) == ["image"] * AMIS[NEW] + ["snapshot"]
        instances = [each for each in ask(ec2, "ledger") if each["kind"] == "instance"]
        deployment.heard.wait_for("image.publish", 240, count=sum(AMIS.values()))
        published = [body["destination"] for body in said(deployment, "image.publish")]
        assert published.count(NEW) == AMIS[NEW]

        # Once: it is public there now.
        refused = deployment.fedimg("retry", old["job"], "--region", NEW, status=5)
        assert "is public in eu-west-1" in refused["error"]
        announce_build(deployment, image={"random_mib": 2}, release="2.1")
        rows = deployment.ended(2)
        assert {each["state"] for each in rows} == {"complete"}
        assert len([each for each in rows[1]["regions"] if each["step"] == "public"]) == len(AMIS)
        # Only the new build was written and booted.
        later = [each for each in ask(ec2, "ledger") if each["kind"] == "instance"]
        assert {each["tags"]["fedimg:job"] for each in later[len(instances) :]} == {rows[1]["job"]}
