"""The life of AMIs while EC2 throttles, loses its answers, and while the program is killed.

Follows fedimg/lifecycle/withdraw_and_restore.py, fedimg/lifecycle/verify.py,
fedimg/lifecycle/recover.py, fedimg/lifecycle/repair_workflow.py, fedimg/lifecycle/pruning.py.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from fedimg.config import Retention, Rule
from fedimg.jobs.outages import Outages
from fedimg.lifecycle import recovery_search, repair, targets
from fedimg.lifecycle.pruning import Pruning
from fedimg.lifecycle.repair_workflow import RepairWorkflow
from fedimg.lifecycle.verify import text_of, verify_regions
from fedimg.lifecycle.withdraw_and_restore import WithdrawAndRestore
from fedimg.steps import PlainSteps
from fedimg.store import rows, tables
from fedimg.store.changes import (
    DELETE,
    DEPRECATE,
    DISABLE,
    REPAIR,
    RESTORE,
    WITHDRAW,
    PendingChanges,
)
from fedimg.store.prunings import Prunings, Request
from fedimg.store.repairs import Repairs
from fedimg.store.withdrawals import Withdrawals
from lab.ec2.server import EC2
from tests.lifecycle.conftest import FURTHER, ORIGIN, REGIONS, Site
from tests.plans import follow, struck

#: A third of all calls is throttled, or is carried out and its answer lost.
FAULTS = {
    "throttled": {"fault": "refused", "code": "RequestLimitExceeded", "probability": 0.33},
    "answer lost": {"fault": "reset", "late": True, "probability": 0.33},
}
#: More tries than any fault outlasts.
_TRIES = 50


def differences(site: Site) -> list[str]:
    """Return the differences of a comparison in which every region has answered."""
    for _ in range(_TRIES):
        results = verify_regions(site.settings, site.store, site.clients, REGIONS)
        if not any(result.error for result in results):
            return [text_of(each) for result in results for each in result.differences]
    raise AssertionError("some region has never answered")


def carry_out(site: Site) -> None:
    """Make every change that can be made, as often as it fails."""
    parts, stop = (site.settings, site.store), threading.Event()
    taking = WithdrawAndRestore(*parts, site.queue, site.clients, PlainSteps(), stop)
    pruning = Pruning(*parts, site.clients, PlainSteps(), stop)
    repairs = RepairWorkflow(*parts, site.clients, PlainSteps(), stop)
    makes = {
        WITHDRAW: taking.withdraw,
        RESTORE: taking.restore,
        DEPRECATE: pruning.deprecate,
        DISABLE: pruning.disable,
        DELETE: pruning.delete,
        REPAIR: repairs.repair,
    }
    for _ in range(_TRIES):
        site.store.write(sa.update(tables.changes).values(due=0))
        for change in PendingChanges(site.store).due():
            makes[change.what](change.job, change.region, change.at)
        away = {outage.region for outage in Outages(site.store, site.settings.ec2.limits).all()}
        if {change.region for change in PendingChanges(site.store).all()} <= away:
            return
    raise AssertionError("the changes have never ended")


def withdraw(site: Site, name: str) -> None:
    found = targets.to_withdraw(site.store, name)
    Withdrawals(site.store).withdraw(
        found.amis, found.regions, by="me", reason="bad", replacement=None
    )


def restore(site: Site, name: str) -> None:
    Withdrawals(site.store).restore(targets.to_restore(site.store, name).amis, by="me")


def states(site: Site) -> dict[str, set[str]]:
    """Return the states of the AMIs by region."""
    return {
        region: {row.state for row in site.rows() if row.region == region} for region in REGIONS
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_life_goes_on_while_ec2_misbehaves(site: Site, fault: str) -> None:
    image = site.publish()
    follow(site.account, [FAULTS[fault]])
    try:
        assert differences(site) == []
        withdraw(site, image.name)
        carry_out(site)
        assert states(site) == {key: {rows.WITHDRAWN} for key in REGIONS}
        assert differences(site) == []
        restore(site, image.name)
        carry_out(site)
        assert states(site) == {key: {rows.PUBLIC} for key in REGIONS}
        assert differences(site) == []
        found = recovery_search.search(site.clients, site.waiter, site.settings.site, REGIONS)
        assert len(found.found) == 4 or found.errors
        assert struck(site.account)[0] > 10
    finally:
        site.account.refuse_nothing()
    assert all(site.shown(row)["Public"] for row in site.rows())


@pytest.mark.parametrize("fault", FAULTS)
def test_repair_and_rules_go_on_while_ec2_misbehaves(site: Site, ec2: EC2, fault: str) -> None:
    rule = Rule(deprecate_after=100, disable_after=200, delete_after=230, keep_newest=0)
    retention = Retention(rules=[rule])
    site.settings = site.settings.model_copy(update={"retention": retention})
    site.publish()
    for row in site.rows():
        site.hide(row)
        ec2._world.images[row.ami].launches = [datetime.now(UTC) - timedelta(days=50)]
    wanted = [(repair.PUBLISH_AMI, row.ami, row.region, row.job) for row in site.rows()]
    assert len(Repairs(site.store).ask(wanted, by="me")) == len(REGIONS)
    follow(site.account, [FAULTS[fault]])
    try:
        carry_out(site)
        assert differences(site) == []
        for what, days in ((DEPRECATE, 150), (DISABLE, 300), (DELETE, 300)):
            at = time.time() - days * 86400
            old = {"published_at": at} | ({"changed_at": at} if what == DELETE else {})
            site.store.write(sa.update(tables.amis).values(**old))
            requests = [Request(row, what, "rule 1", time.time() + 3600) for row in site.rows()]
            assert len(Prunings(site.store).ask(requests, by="me")) == 4
            carry_out(site)
            assert [each for each in Prunings(site.store).all() if each.kept] == []
            assert differences(site) == []
        assert struck(site.account)[0] > 10
    finally:
        site.account.refuse_nothing()
    assert site.rows() == []
    assert site.account.live(site.settings.site) == []


def test_region_that_is_away_neither_blocks_a_restoration_nor_is_forgotten(site: Site) -> None:
    image = site.publish()
    withdraw(site, image.name)
    carry_out(site)
    outages = Outages(site.store, site.settings.ec2.limits)
    outages.begin(FURTHER, "it does not answer")
    restore(site, image.name)
    carry_out(site)
    assert states(site) == {ORIGIN: {rows.PUBLIC}, FURTHER: {rows.RESTORING}}
    (outage,) = outages.all()
    outages.end(outage)
    carry_out(site)
    assert states(site) == {key: {rows.PUBLIC} for key in REGIONS}
    assert differences(site) == []
