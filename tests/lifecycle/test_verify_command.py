"""`fedimg verify`, as an operator runs it, against the lab's EC2.

Follows fedimg/cli/verify_command.py, fedimg/cli/lifecycle_output.py.
"""

from __future__ import annotations

import json

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
    done = run("verify", "--repair", row.ami, "--yes")
    assert done.exit_code == 0, done.stderr
    assert f"done: publish AMI {row.ami}" in done.stderr
    assert site.shown(row)["Public"]


def test_bytes_are_read_after_the_amount_was_shown(run: Run, site: Site) -> None:
    site.publish()
    asked = run("verify", "--bytes", "--region", ORIGIN)
    assert asked.exit_code == 5
    assert "0.0 GiB of 1 snapshots have to be read" in asked.stderr
    done = run("verify", "--bytes", "--region", ORIGIN, "--yes")
    assert done.exit_code == 0, done.stderr
    assert "it is what Koji built" in done.stderr


def test_unknown_ami_is_refused(run: Run, site: Site) -> None:
    site.publish()
    assert run("verify", "ami-00000000000000000").exit_code == 3
