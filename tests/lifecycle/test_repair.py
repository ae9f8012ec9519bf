"""A worker makes EC2 as it is recorded, after a person asked for that, on the lab's EC2.

Follows fedimg/lifecycle/repair.py, fedimg/lifecycle/repair_workflow.py, fedimg/store/repairs.py.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa

from fedimg.aws import tags
from fedimg.jobs.holds import Holds
from fedimg.jobs.outages import Outages
from fedimg.lifecycle import repair, targets, verify
from fedimg.lifecycle.comparison import Difference
from fedimg.lifecycle.repair_workflow import RepairWorkflow
from fedimg.lifecycle.withdraw_and_restore import WithdrawAndRestore
from fedimg.steps import PlainSteps
from fedimg.store import rows
from fedimg.store.changes import REPAIR, WITHDRAW, PendingChanges
from fedimg.store.repairs import Repairs
from fedimg.store.tables import amis, changes
from fedimg.store.withdrawals import Withdrawals
from tests.lifecycle.by_hand import published_untested, snapshot_hidden
from tests.lifecycle.conftest import FURTHER, ORIGIN, REGIONS, Site


def differences(site: Site) -> list[Difference]:
    results = verify.verify_regions(site.settings, site.store, site.clients, REGIONS)
    return [each for result in results for each in result.differences]


def ask(site: Site, *named: str) -> list[str]:
    """Ask a worker for the repair, as the command does; return the kinds of its actions."""
    plan = repair.plan(differences(site), site.store.all_amis(), site.store.job, named)
    return [each.what for each in repair.ask(site.store, plan.actions, "me")]


def carry_out(site: Site) -> None:
    """Make every change that is due, as a worker does."""
    parts = (site.settings, site.store)
    stopping = threading.Event()
    repairs = RepairWorkflow(*parts, site.clients, PlainSteps(), stopping)
    others = WithdrawAndRestore(*parts, site.queue, site.clients, PlainSteps(), stopping)
    site.store.write(sa.update(changes).values(due=0))
    for change in PendingChanges(site.store).due():
        make = repairs.repair if change.what == REPAIR else others.withdraw
        make(change.job, change.region, change.at)


def repaired(site: Site, *named: str) -> list[str]:
    asked = ask(site, *named)
    carry_out(site)
    return asked


def restored(site: Site) -> list[str]:
    """Return the AMIs that image.restore announces."""
    waiting = [row for row in site.store.unannounced() if row.topic == "image.restore"]
    return sorted(row.body["extra"]["id"] for row in waiting)


def make_public(site: Site, ami: str) -> None:
    everybody: dict[str, Any] = {"Add": [{"Group": "all"}]}
    site.ec2().modify_image_attribute(ImageId=ami, LaunchPermission=everybody)


def test_ami_that_a_person_may_have_hidden_is_repaired_by_its_id_alone(site: Site) -> None:
    row = site.row(site.publish())
    published_at = site.row(site.images[0]).published_at
    site.hide(row)
    assert repaired(site) == []
    assert not site.shown(row)["Public"]
    assert repaired(site, row.ami) == ["publish AMI"]
    assert site.shown(row)["Public"]
    assert differences(site) == []
    # It is available again, and became public at the time that is recorded.
    assert restored(site) == [row.ami]
    assert site.row(site.images[0]).published_at == published_at
    tagged = tags.published_at(tags.read(site.shown(row)["Tags"]))
    assert tagged == pytest.approx(published_at, abs=2)
    (done,) = Repairs(site.store).all()
    assert (done.by, done.id, done.given_up) == ("me", row.ami, None)
    assert done.ended


def test_ami_without_a_passed_check_is_never_offered_by_a_repair(site: Site) -> None:
    row = site.row(site.publish())
    with site.store.engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM fedimg_tests WHERE job = '{row.job}'")
    site.hide(row)
    assert repaired(site, row.ami) == []
    # Nor if a request says so.
    Repairs(site.store).ask([("publish AMI", row.ami, ORIGIN, row.job)], by="me")
    carry_out(site)
    assert not site.shown(row)["Public"]
    assert PendingChanges(site.store).all() == []
    assert Repairs(site.store).all()[0].given_up


def test_private_snapshot_of_a_public_ami_is_repaired(site: Site) -> None:
    snapshot_hidden(site)
    assert repaired(site) == ["publish snapshot"]
    assert differences(site) == []
    # The AMI was available all the time.
    assert restored(site) == []


def test_public_ami_recorded_as_private_is_hidden_by_a_repair(site: Site) -> None:
    published_untested(site)
    assert repaired(site) == ["hide AMI"]
    assert differences(site) == []
    assert restored(site) == []


def test_all_regions_are_repaired_and_one_that_is_away_follows(site: Site) -> None:
    image = site.publish()
    hidden = site.rows(image)
    for row in hidden:
        site.hide(row)
    assert ask(site, *(row.ami for row in hidden)) == ["publish AMI"] * 4
    Outages(site.store, site.settings.ec2.limits).begin(FURTHER, "it does not answer")
    carry_out(site)
    assert [site.shown(row)["Public"] for row in hidden if row.region == ORIGIN] == [True] * 2
    (change,) = PendingChanges(site.store).all()
    assert (change.region, change.what) == (FURTHER, REPAIR)
    assert FURTHER in str(change.error)
    # Until then the comparison names it, as a change of fedimg's that is not finished.
    pending = differences(site)
    assert {each.kind.value for each in pending} == {"pending"}
    assert all("its repair is not finished" in each.text for each in pending)
    outages = Outages(site.store, site.settings.ec2.limits)
    outages.end(*outages.all())
    carry_out(site)
    assert differences(site) == []
    assert restored(site) == sorted(row.ami for row in hidden)


@pytest.mark.parametrize("meanwhile", ["accepted", "withdrawn", "disabled", "other snapshot"])
def test_what_a_person_did_since_the_request_is_respected(site: Site, meanwhile: str) -> None:
    image = site.publish(regions=[ORIGIN])
    row = site.row(image)
    site.hide(row)
    assert ask(site, row.ami) == ["publish AMI"]
    if meanwhile == "accepted":
        assert Withdrawals(site.store).accept(row, rows.HIDDEN, "me", "a bad kernel")
    elif meanwhile == "withdrawn":
        targets.withdraw(site.store, image.name, by="me", reason="a bad kernel")
        assert {each.what for each in PendingChanges(site.store).all()} == {WITHDRAW}
    elif meanwhile == "disabled":
        site.ec2().disable_image(ImageId=row.ami)
    else:
        site.store.write(
            sa.update(amis).where(amis.c.ami == row.ami).values(snapshot="snap-00000000000000000")
        )
    # After a withdrawal the repair is looked at once more, as it may be about other AMIs.
    for _ in range(2):
        carry_out(site)
    assert PendingChanges(site.store).all() == []
    (shown,) = site.ec2().describe_images(ImageIds=[row.ami], IncludeDisabled=True)["Images"]
    assert not shown["Public"]
    assert restored(site) == []
    (asked,) = Repairs(site.store).all()
    assert asked.given_up == "record or EC2 changed since it was asked for"


def test_nothing_is_published_while_the_site_is_held_and_what_is_untested_is_hidden(
    site: Site,
) -> None:
    published_untested(site)
    hidden = site.row(site.publish(regions=[ORIGIN]))
    site.hide(hidden)
    Holds(site.store).begin("me", "a move")
    assert sorted(ask(site, hidden.ami)) == ["hide AMI", "publish AMI"]
    carry_out(site)
    (change,) = PendingChanges(site.store).all()
    assert "publishing has been held" in str(change.error)
    assert [each.id for each in differences(site)] == [hidden.ami]
    Holds(site.store).release("me")
    carry_out(site)
    assert differences(site) == []


def test_repair_waits_for_no_other_change_and_replaces_none(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    first, second = site.rows(image)
    targets.withdraw(site.store, image.name, by="me", reason="a bad kernel")
    (before,) = PendingChanges(site.store).all()
    wanted = [("publish AMI", each.ami, ORIGIN, image.job) for each in (first, second)]
    assert Repairs(site.store).ask(wanted, by="me") == set()
    assert PendingChanges(site.store).all() == [before]
    assert Repairs(site.store).all() == []
