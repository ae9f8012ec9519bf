"""`fedimg withdraw`, `restore` and `accept`, as an operator runs them, against the lab's EC2.

Follows fedimg/cli/withdraw_commands.py.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from fedimg.exceptions import EC2ServiceException
from fedimg.jobs.recorder import Recorder
from fedimg.store import rows
from fedimg.store.changes import PendingChanges
from fedimg.store.prunings import Prunings
from fedimg.store.withdrawals import Withdrawals
from tests.lifecycle.conftest import FURTHER, ORIGIN, Run, Site


def test_withdrawal_and_restoration_are_recorded_for_the_worker(
    run: Run,
    site: Site,
) -> None:
    image, other = site.publish(regions=[ORIGIN]), site.publish(regions=[ORIGIN])
    assert run("withdraw", image.name).exit_code == 2  # no reason
    for wrong in (image.name[:-1], "ami-00000000000000000"):
        assert run("withdraw", wrong, "--reason", "bad", "--yes").exit_code == 3
    unknown = run("withdraw", image.name, "--reason", "bad", "--replacement", "x", "--yes")
    assert unknown.exit_code == 3
    asked = run("withdraw", image.name, "--reason", "bad")
    assert asked.exit_code == 5
    assert "add --yes" in asked.stderr
    looked = run("withdraw", image.name, "--reason", "bad", "--dry-run", "--json")
    assert [row["state"] for row in json.loads(looked.stdout)] == [rows.PUBLIC] * 2
    assert Withdrawals(site.store).all() == []

    done = run(
        "withdraw", image.name, "--reason", "bad", "--replacement", other.name, "--yes", "--json"
    )
    assert done.exit_code == 0, done.stderr
    assert "cannot be recalled" in done.stderr
    shown = json.loads(done.stdout)
    assert {row["state"] for row in shown} == {rows.WITHDRAWING}
    assert {row["replacement"] for row in shown} == {other.name}
    (withdrawal,) = Withdrawals(site.store).all()
    assert "@" in withdrawal.by
    assert [change.what for change in PendingChanges(site.store).all()] == ["withdraw"]
    assert "its withdrawal is not finished" in run("status").stderr
    refused = run("upload", image.url, "--checksum", str(image.checksum))
    assert refused.exit_code == 5
    assert f"'fedimg restore {image.job}' comes first" in refused.stderr
    retried = run("retry", image.job)
    assert retried.exit_code == 5
    assert "is withdrawn" in retried.stderr

    assert run("restore", other.name, "--yes").exit_code == 5
    restored = run("restore", image.job, "--yes", "--json")
    assert restored.exit_code == 0, restored.stderr
    assert {row["state"] for row in json.loads(restored.stdout)} == {rows.RESTORING}
    assert [change.what for change in PendingChanges(site.store).all()] == ["restore"]


def test_acceptance_explains_its_effect(run: Run, site: Site) -> None:
    row = site.row(site.publish(regions=[ORIGIN]))
    same = run("accept", row.ami)
    assert same.exit_code == 0
    assert "nothing changes" in same.stderr
    site.hide(row)
    asked = run("accept", row.ami)
    assert asked.exit_code == 5
    assert "no comparison reports it" in asked.stderr
    done = run("accept", row.ami, "--yes", "--reason", "a wrong name", "--json")
    assert done.exit_code == 0, done.stderr
    (shown,) = json.loads(done.stdout)
    assert (shown["state"], shown["reason"]) == (rows.HIDDEN, "a wrong name")
    assert run("verify").exit_code == 0
    assert run("accept", "ami-00000000000000000").exit_code == 3


def test_time_of_deprecation_that_a_person_chose_can_be_accepted(run: Run, site: Site) -> None:
    row = site.row(site.publish(regions=[ORIGIN]))
    soon = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(days=90)
    site.ec2().enable_image_deprecation(ImageId=row.ami, DeprecateAt=soon)
    assert run("verify").exit_code == 1
    asked = run("accept", row.ami)
    assert asked.exit_code == 5
    assert f"EC2 deprecates it {soon:%Y-%m-%dT%H:%M}" in asked.stderr
    done = run("accept", row.ami, "--yes", "--reason", "end of life")
    assert done.exit_code == 0, done.stderr
    assert run("verify").exit_code == 0
    (recorded,) = Prunings(site.store).all()
    assert (recorded.ami, "end of life" in recorded.reason) == (row.ami, True)
    # The days of the rules count as before.
    (now,) = (each for each in site.rows() if each.ami == row.ami)
    assert (now.state, now.changed_at) == (rows.PUBLIC, None)
    sooner = soon - timedelta(days=10)
    site.ec2().enable_image_deprecation(ImageId=row.ami, DeprecateAt=sooner)
    assert run("verify").exit_code == 1
    assert run("accept", row.ami, "--yes").exit_code == 0
    assert run("verify").exit_code == 0


def test_withdrawal_takes_along_what_becomes_public_while_the_question_waits(
    run: Run, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = site.publish(regions=[ORIGIN])

    def person(question: str, *, yes: bool) -> bool:
        for ami in site.register(image, FURTHER):
            site.store.record_ami(image, ami)
            site.store.publish_ami(ami)
        return True

    monkeypatch.setattr("fedimg.cli.withdraw_commands.confirmed", person)
    done = run("withdraw", image.name, "--reason", "bad")
    assert done.exit_code == 0, done.stderr
    assert "4 AMIs" in done.stderr
    assert {row.state for row in site.rows(image)} == {rows.WITHDRAWING}
    changes = PendingChanges(site.store).all()
    assert {change.region for change in changes} == {ORIGIN, FURTHER}


def test_run_publishes_nothing_more_after_the_withdrawal_of_its_image(run: Run, site: Site) -> None:
    """A run that began while the command was at work is stopped a moment later."""
    image = site.image()
    assert site.queue.submit(image)
    assert run("withdraw", image.name, "--reason", "bad", "--yes").exit_code == 0
    recorder = Recorder(site.store, image, 1, ORIGIN)
    with pytest.raises(EC2ServiceException, match=f"'fedimg restore {image.job}'"):
        recorder.publishing(ORIGIN, ["snap-1", "ami-1"])
    assert site.store.ever_public(image.job) == set()
    assert run("restore", image.name, "--yes").exit_code == 0
    assert set(recorder.publishing(ORIGIN, ["snap-1", "ami-1"])) == {"snap-1", "ami-1"}


def test_restoration_leaves_what_a_person_hides_while_the_question_waits(
    run: Run, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = site.publish(regions=[ORIGIN])
    assert run("withdraw", image.name, "--reason", "bad", "--yes").exit_code == 0
    hidden, other = site.rows(image)

    def person(question: str, *, yes: bool) -> bool:
        Withdrawals(site.store).accept(hidden, rows.HIDDEN, "me", "a bad kernel")
        return True

    monkeypatch.setattr("fedimg.cli.withdraw_commands.confirmed", person)
    done = run("restore", image.name)
    assert done.exit_code == 0, done.stderr
    assert {row.ami: row.state for row in site.rows(image)} == {
        hidden.ami: rows.HIDDEN,
        other.ami: rows.RESTORING,
    }
