"""`fedimg prune`, as an operator runs it, against the lab's EC2.

Follows fedimg/cli/prune_command.py.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from fedimg.store import rows
from fedimg.store.prunings import Prunings
from fedimg.store.tables import amis
from lab.ec2.server import EC2
from tests.lifecycle.conftest import FURTHER, ORIGIN, Run, Site

RULES = "[[retention.rules]]\ndisable_after = 200\ndelete_after = 230\nkeep_newest = 0\n"


def test_each_ami_is_explained_and_a_person_decides(
    run: Run, site: Site, ec2: EC2, tmp_path: Path
) -> None:
    old, young = site.publish(regions=[ORIGIN]), site.publish()
    at = time.time() - 300 * 86400
    site.store.write(sa.update(amis).where(amis.c.job == old.job).values(published_at=at))
    none = run("prune", "--dry-run")
    assert none.exit_code == 2
    assert "no [[retention.rules]]" in none.stderr
    with (tmp_path / "fedimg.toml").open("a") as config:
        config.write(RULES)

    looked = run("prune", "--dry-run", "--json")
    assert looked.exit_code == 0, looked.stderr
    explained = json.loads(looked.stdout)
    assert {row["decision"] for row in explained} == {"keep"}
    assert {row["rule"] for row in explained} == {1}
    whys = {row["why"] for row in explained if row["job"] == old.job}
    assert len(whys) == 1
    assert "EC2 does not tell when an instance was last launched" in whys.pop()
    assert len(explained) == 6

    for row in site.rows(old):
        ec2._world.images[row.ami].launches = [datetime.now(UTC) - timedelta(days=50)]
    asked = run("prune")
    assert asked.exit_code == 5
    assert "add --yes" in asked.stderr
    assert "to disable: 2 AMIs" in asked.stderr
    assert Prunings(site.store).all() == []
    other = run("prune", "--region", FURTHER, "--yes")
    assert other.exit_code == 0
    assert "every AMI is kept" in other.stdout + other.stderr
    assert run("prune", "--region", "mars-north-1").exit_code == 3

    done = run("prune", "--yes", "--json")
    assert done.exit_code == 0, done.stderr
    assert [row["decision"] for row in json.loads(done.stdout)] == ["disable"] * 2
    assert "the worker deprecates, disables and removes 2 AMIs" in done.stderr
    assert {row.state for row in site.rows(old)} == {rows.DISABLING}
    assert {row.state for row in site.rows(young)} == {rows.PUBLIC}
    assert all("@" in each.by for each in Prunings(site.store).all())
    assert "its disabling is not finished" in run("status").stderr


def test_recycle_bins_rules_are_named_before_anything_is_removed(
    run: Run, site: Site, ec2: EC2, tmp_path: Path
) -> None:
    image = site.publish(regions=[ORIGIN])
    days_ago = time.time() - 300 * 86400
    site.store.write(
        sa.update(amis).values(
            state=rows.DISABLED, public=False, published_at=days_ago, changed_at=days_ago
        )
    )
    for row in site.rows(image):
        ec2._world.images[row.ami].launches = [datetime.now(UTC) - timedelta(days=50)]
        site.ec2().disable_image(ImageId=row.ami)
    with (tmp_path / "fedimg.toml").open("a") as config:
        config.write(RULES)
    rbin = site.hands.client("rbin", ORIGIN)
    for what, resource_type in (("AMIs", "EC2_IMAGE"), ("snapshots", "EBS_SNAPSHOT")):
        rule = rbin.create_rule(
            ResourceType=resource_type,
            RetentionPeriod={"RetentionPeriodValue": 7, "RetentionPeriodUnit": "DAYS"},
        )["Identifier"]
        told = run("prune", "--dry-run")
        assert "to delete: 2 AMIs" in told.stderr
        named = f"the Recycle Bin of {ORIGIN} keeps what its rule {rule} (7 days) for {what} match"
        assert named in told.stderr
        rbin.delete_rule(Identifier=rule)
