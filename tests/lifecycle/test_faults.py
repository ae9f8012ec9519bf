"""The life of AMIs while EC2 throttles, loses its answers, and while the program is killed.

Follows fedimg/lifecycle/withdraw_and_restore.py, fedimg/lifecycle/verify.py,
fedimg/lifecycle/repair.py and fedimg/lifecycle/recover.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fedimg.jobs.outages import Outages
from fedimg.lifecycle import recover, targets
from fedimg.lifecycle.verify import text_of, verify_regions
from fedimg.lifecycle.withdraw_and_restore import WithdrawAndRestore
from fedimg.steps import PlainSteps
from fedimg.store import rows, tables
from fedimg.store.withdrawals import WITHDRAW, Withdrawals
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
    workflow = WithdrawAndRestore(
        site.settings, site.store, site.queue, site.clients, PlainSteps(), threading.Event()
    )
    for _ in range(_TRIES):
        site.store.write(sa.update(tables.changes).values(due=0))
        for change in Withdrawals(site.store).due():
            make = workflow.withdraw if change.what == WITHDRAW else workflow.restore
            make(change.job, change.region, change.at)
        away = {outage.region for outage in Outages(site.store, site.settings.ec2.limits).all()}
        if {change.region for change in Withdrawals(site.store).changes()} <= away:
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
        found = recover.search(site.clients, site.waiter, site.settings.site, REGIONS)
        assert len(found.found) == 4 or found.errors
        assert struck(site.account)[0] > 10
    finally:
        site.account.refuse_nothing()
    assert all(site.shown(row)["Public"] for row in site.rows())


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


#: A `fedimg verify --repair` that dies after the effect on EC2 that its first argument names.
DYING = """
import os, signal, sys

from fedimg.aws import permissions, publish
from fedimg.cli.commands import app

deadly = sys.argv.pop(1)
for module in (publish, permissions):
    if effect := getattr(module, deadly, None):

        def dying(*arguments, effect=effect):
            effect(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(module, deadly, dying)
app()
"""


@pytest.mark.process
@pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
def test_repair_goes_on_after_a_kill_at_each_action(site: Site, tmp_path: Path) -> None:
    hidden = site.row(site.publish(regions=[ORIGIN]))
    site.hide(hidden)
    site.ec2().reset_snapshot_attribute(
        SnapshotId=hidden.snapshot, Attribute="createVolumePermission"
    )
    untested = site.image()
    (published, *_) = site.register(untested, ORIGIN)
    for ami in (published, *_):
        site.store.record_ami(untested, ami)
    everybody: dict[str, Any] = {"Add": [{"Group": "all"}]}
    site.ec2().modify_image_attribute(ImageId=published.id, LaunchPermission=everybody)
    site.ec2().modify_snapshot_attribute(
        SnapshotId=published.snapshot,
        Attribute="createVolumePermission",
        CreateVolumePermission=everybody,
    )
    before = differences(site)
    assert len(before) == 6

    database = site.store.queue_url if site.store.shared else ""
    config = tmp_path / "killed.toml"
    config.write_text(
        f'site = "{site.settings.site}"\nstate_directory = "{site.store.directory}"\n'
        f'database = "{database}"\n[ec2]\norigin = "{ORIGIN}"\nregions = ["{ORIGIN}"]\n'
    )
    own = [row.ami for row in site.rows()]
    arguments = ["--config", str(config), "verify", *own, "--repair", "--yes"]
    for deadly in ("publish_snapshot", "publish_ami", "hide_ami", "hide_snapshot", "nothing"):
        done = subprocess.run(
            [sys.executable, "-c", DYING, deadly, *arguments],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            check=False,
        )
        assert done.returncode == (0 if deadly == "nothing" else -9), done.stderr
    assert differences(site) == []
    assert not site.ec2().describe_images(ImageIds=[published.id])["Images"][0]["Public"]
