"""`fedimg verify`, as an operator runs it, against the lab's EC2.

Follows fedimg/cli/verify_command.py, fedimg/cli/lifecycle_output.py.
"""

from __future__ import annotations

import json

import sqlalchemy as sa

from fedimg.store.repairs import Repairs
from fedimg.store.tables import amis
from tests.lifecycle.conftest import FURTHER, ORIGIN, Run, Site


def test_differences_are_listed_with_exit_status_1(run: Run, site: Site) -> None:
    row = site.row(site.publish())
    same = run("verify", "--json")
    assert same.exit_code == 0, same.stderr
    assert json.loads(same.stdout)["differences"] == []
    assert json.loads(same.stdout)["amis"] == 4
    site.hide(row)
    told = run("verify")
    assert told.exit_code == 1
    assert row.ami in told.stdout
    assert "is recorded as public and is private" in told.stdout
    (difference,) = json.loads(run("verify", "--json").stdout)["differences"]
    assert (difference["kind"], difference["id"]) == ("private", row.ami)
    assert f"record and EC2 differ in {ORIGIN}" in run("status").stderr
    assert run("verify", "--region", FURTHER).exit_code == 0


def test_repair_lists_its_actions_and_asks_first(run: Run, site: Site) -> None:
    row = site.row(site.publish())
    site.hide(row)
    left = run("verify", "--repair", "--yes")
    assert left.exit_code == 1
    assert f"'fedimg verify --repair {row.ami}'" in left.stderr
    asked = run("verify", "--repair", row.ami)
    assert asked.exit_code == 5
    assert f"to do: publish AMI {row.ami}" in asked.stderr
    assert "add --yes" in asked.stderr
    assert not site.shown(row)["Public"]
    assert Repairs(site.store).all() == []
    done = run("verify", "--repair", row.ami, "--yes")
    assert done.exit_code == 0, done.stderr
    assert "the worker does 1 actions" in done.stderr
    assert "no worker is running" in done.stderr
    # Nothing is changed by the command itself, and nothing is asked for twice.
    assert not site.shown(row)["Public"]
    (asked,) = Repairs(site.store).all()
    assert (asked.what, asked.id, "@" in asked.by) == ("publish AMI", row.ami, True)
    again = run("verify", "--repair", row.ami, "--yes")
    assert again.exit_code == 1
    assert "its repair is not finished: only reported" in again.stderr
    assert len(Repairs(site.store).all()) == 1


def test_difference_that_no_repair_ends_keeps_the_exit_status(run: Run, site: Site) -> None:
    hidden, left = site.rows(site.publish(regions=[ORIGIN]))
    for row in (hidden, left):
        site.hide(row)
    done = run("verify", "--repair", hidden.ami, "--yes")
    assert done.exit_code == 0
    assert run("verify", "--repair", "--yes").exit_code == 1


def test_bytes_are_read_after_the_amount_was_shown(run: Run, site: Site) -> None:
    site.publish()
    asked = run("verify", "--bytes", "--region", ORIGIN)
    assert asked.exit_code == 5
    assert "0.0 GiB of 1 snapshots have to be read" in asked.stderr
    done = run("verify", "--bytes", "--region", ORIGIN, "--yes")
    assert done.exit_code == 0, done.stderr
    assert "it is what Koji built" in done.stderr


def disk(site: Site, region: str, sha256: str | None) -> None:
    """Let the record of a region's disks have another SHA-256, or none."""
    site.store.write(sa.update(amis).where(amis.c.region == region).values(disk_sha256=sha256))


def test_other_bytes_are_a_difference_also_after_a_repair(run: Run, site: Site) -> None:
    row = site.row(site.publish(regions=[ORIGIN]))
    disk(site, ORIGIN, "0" * 64)
    told = run("--json", "verify", "--bytes", "--yes")
    assert told.exit_code == 1
    (difference,) = json.loads(told.stdout)["differences"]
    assert (difference["kind"], difference["id"]) == ("bytes", row.snapshot)
    # An AMI of other bytes is not published; the repair of another one does not hide that.
    other = site.row(site.publish(regions=[ORIGIN]))
    for each in (row, other):
        site.hide(each)
    repaired = run("verify", "--bytes", "--repair", row.ami, other.ami, "--yes")
    assert repaired.exit_code == 1
    assert f"to do: publish AMI {other.ami}" in repaired.stderr
    assert f"{row.ami} in {ORIGIN} stays private" in repaired.stderr
    assert not site.shown(row)["Public"]


def test_bytes_that_nobody_compared_are_told_with_exit_status_1(run: Run, site: Site) -> None:
    site.publish()
    disk(site, FURTHER, None)
    told = run("--json", "verify", "--bytes", "--yes")
    assert told.exit_code == 1
    (why,) = json.loads(told.stdout)["not_read"].values()
    assert "the SHA-256 of its disk was never recorded" in why
    assert "it is what Koji built" in told.stderr


def test_region_that_is_away_keeps_no_answer_and_no_reading_back(run: Run, site: Site) -> None:
    image = site.publish()
    site.account.refuse(FURTHER, DescribeImages="UnauthorizedOperation")
    told = run("--json", "verify", "--bytes", "--yes")
    assert told.exit_code == 1
    assert FURTHER in json.loads(told.stdout)["not_compared"]
    assert told.stderr.count("it is what Koji built") == 1
    site.account.refuse_nothing()

    (further,) = {row.snapshot for row in site.rows(image) if row.region == FURTHER}
    site.account.refuse(FURTHER, ListSnapshotBlocks="AccessDeniedException")
    told = run("--json", "verify", "--bytes", "--yes")
    assert told.exit_code == 1
    assert list(json.loads(told.stdout)["not_read"]) == [further]
    assert told.stderr.count("it is what Koji built") == 1


def test_differences_are_told_before_the_bytes_are_read(run: Run, site: Site) -> None:
    row = site.row(site.publish(regions=[ORIGIN]))
    site.hide(row)
    asked = run("verify", "--bytes")
    assert asked.exit_code == 5
    assert row.ami in asked.stdout


def test_unknown_ami_is_refused(run: Run, site: Site) -> None:
    site.publish()
    assert run("verify", "ami-00000000000000000").exit_code == 3
