"""Whole workers change AMIs, and are killed at each step: SQLite and PostgreSQL.

Follows fedimg/lifecycle/withdraw_and_restore.py, fedimg/lifecycle/pruning.py,
fedimg/lifecycle/change_workflow.py, fedimg/lifecycle/due_changes.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from fedimg.images import AMIType, Virtualization
from fedimg.lifecycle import repair, targets, verify
from fedimg.store import rows
from fedimg.store.changes import DELETE, DEPRECATE, DISABLE, PendingChanges
from fedimg.store.prunings import Prunings, Request
from fedimg.store.repairs import Repairs
from fedimg.store.shares import Shares
from fedimg.store.tables import amis
from fedimg.store.withdrawals import Withdrawals
from fedimg.values.audience import Audience
from lab.ec2.server import EC2
from tests.lifecycle.conftest import FURTHER, ORIGIN, REGIONS, Site
from tests.silent_relay import SILENT_RELAY

#: In seconds; on an idle machine nothing here takes a tenth of it.
PATIENCE = 240.0
#: A worker that dies after the effect that its argument names, before it is recorded.
WORKER = """
import logging, os, signal, sys
from pathlib import Path

from fedimg import config
from fedimg.lifecycle.pruning import Pruning
from fedimg.lifecycle.repair_workflow import RepairWorkflow
from fedimg.lifecycle.share import ShareWorkflow
from fedimg.lifecycle.withdraw_and_restore import WithdrawAndRestore
from fedimg.worker import process

deadly, marker = sys.argv[2], Path(sys.argv[3])

"""
WORKER += SILENT_RELAY
WORKER += """

def dies_after(name):
    workflow, _, name = name.rpartition(".")
    workflow = {"Pruning": Pruning, "Repair": RepairWorkflow, "Share": ShareWorkflow}.get(
        workflow, WithdrawAndRestore
    )
    method = getattr(workflow, name)

    def dying(self, *arguments):
        result = method(self, *arguments)
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(workflow, name, dying)


if deadly != "nothing":
    dies_after(deadly)
process.OutboxRelay = Relay
logging.basicConfig(level=logging.INFO)
sys.exit(process.run_worker(config.load(Path(sys.argv[1]))))
"""


class Workers:
    """Worker processes on the site's database."""

    def __init__(self, site: Site, folder: Path, database: str) -> None:
        self.folder = folder
        self.config = folder / "worker.toml"
        self.config.write_text(
            f'site = "{site.settings.site}"\nstate_directory = "{site.store.directory}"\n'
            f'database = "{database}"\n'
            '[koji]\nhub = "http://127.0.0.1:9/kojihub"\n'
            f'[ec2]\norigin = "{ORIGIN}"\nregions = ["{ORIGIN}", "{FURTHER}"]\n'
            "[ec2.limits]\nsettle = 2\noutage = 2\nwait_minimum = 0.05\nwait_maximum = 0.2\n"
            "retry_after = 1\n"
            "[[retention.rules]]\ndeprecate_after = 100\ndisable_after = 200\n"
            "delete_after = 230\nkeep_newest = 0\n"
        )
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, deadly: str = "nothing") -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            worker = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    WORKER,
                    self.config,
                    deadly,
                    self.folder / f"died {deadly} {len(self.running)}",
                ],
                stderr=log,
                env={**os.environ, "HOME": str(self.folder)},
            )
        self.running.append(worker)
        return worker

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def stop(self) -> None:
        for worker in self.running:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


@pytest.fixture
def workers(site: Site, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Workers]:
    database = site.store.queue_url if site.store.shared else ""
    workers = Workers(site, tmp_path, database)
    yield workers
    workers.stop()


def until(so: Callable[[], bool], workers: Workers) -> None:
    deadline = time.monotonic() + PATIENCE
    while not so():
        assert time.monotonic() < deadline, workers.log()
        time.sleep(0.1)


def withdraw(site: Site, name: str) -> None:
    found = targets.to_withdraw(site.store, name)
    Withdrawals(site.store).withdraw(
        found.amis, found.regions, by="me", reason="bad", replacement=None
    )


def ask(site: Site, what: str) -> None:
    """Make all AMIs old enough for a rule, and ask for what it demands, as the command does."""
    days = {DEPRECATE: 150, DISABLE: 300, DELETE: 300}[what]
    values: dict[str, float] = {"published_at": time.time() - days * 86400}
    if what == DELETE:
        values["changed_at"] = time.time() - 40 * 86400
    site.store.write(sa.update(amis).values(**values))
    requests = [
        Request(row, what, "rule 1", time.time() + 3600 if what == DEPRECATE else None)
        for row in site.rows()
    ]
    assert len(Prunings(site.store).ask(requests, by="me")) == len(requests)


def launched_long_ago(site: Site, ec2: EC2) -> None:
    for row in site.rows():
        ec2._world.images[row.ami].launches = [datetime.now(UTC) - timedelta(days=50)]


def all_are(site: Site, state: str) -> bool:
    return {row.state for row in site.rows()} == {state}


def differences(site: Site) -> list[str]:
    results = verify.verify_regions(site.settings, site.store, site.clients, REGIONS)
    return [verify.text_of(each) for result in results for each in result.differences]


def announced(site: Site, topic: str) -> int:
    return len([row for row in site.store.unannounced() if row.topic == topic])


#: On SQLite a worker dies, and the next one starts; on PostgreSQL another one is there already.
STORES = pytest.mark.parametrize(
    ("store", "several"),
    [("sqlite", False), ("postgresql", False), ("postgresql", True)],
    indirect=["store"],
)
WITHDRAWAL = ("_stop_run", "_record_permissions", "_mark_withdrawn", "_hide", "_end")
RESTORATION = ("_enable", "_mark_restored", "_share", "_end")
DEPRECATION = ("Pruning._check", "Pruning._deprecate", "Pruning._end")
DISABLING = tuple(
    f"Pruning.{each}"
    for each in ("_check", "_record_permissions", "_mark_disabled", "_disable", "_end")
)
REMOVAL = ("Pruning._check", "Pruning._remove", "Pruning._end")
REPAIRING = tuple(f"Repair.{each}" for each in ("_check", "_hide", "_mark", "_publish", "_end"))

SHARING = tuple(f"Share.{each}" for each in ("_unshare", "_mark", "_share", "_end"))


def changed_through_kills(
    workers: Workers, deadly: Sequence[str], ended: Callable[[], bool], *, several: bool
) -> None:
    """Let a worker die after each effect of a change, until another one has ended the change.

    With `several`, all of these work at the same time, so that each may find what another left.
    """
    if several:
        dying = [workers.start(each) for each in deadly]
        until(lambda: ended() or all(each.poll() is not None for each in dying), workers)
    else:
        for each in deadly:
            assert workers.start(each).wait(PATIENCE) == -9
    workers.start()
    until(ended, workers)
    workers.stop()


@pytest.mark.long
@pytest.mark.timeout(1200)
@STORES
def test_changes_go_on_after_a_kill_at_each_step(
    site: Site, workers: Workers, *, several: bool
) -> None:
    """One chain, as the start of a worker is what takes the time."""
    image = site.publish()
    withdraw(site, image.name)
    changed_through_kills(
        workers, WITHDRAWAL, lambda: all_are(site, rows.WITHDRAWN), several=several
    )
    assert differences(site) == []
    assert announced(site, "image.withdraw") == 4
    assert all((row.permissions or {})["launch"] == [{"Group": "all"}] for row in site.rows())

    Withdrawals(site.store).restore(targets.to_restore(site.store, image.name).amis, by="me")
    changed_through_kills(workers, RESTORATION, lambda: all_are(site, rows.PUBLIC), several=several)
    assert differences(site) == []
    assert announced(site, "image.restore") == 4


@pytest.mark.long
@pytest.mark.timeout(1200)
@STORES
def test_repair_goes_on_after_a_kill_at_each_step(
    site: Site, workers: Workers, *, several: bool
) -> None:
    image = site.publish()
    hidden = [site.row(image, region) for region in REGIONS]
    for row in hidden:
        site.hide(row)
    # fedimg did not publish this one of the same job.
    (private,) = site.register(image, ORIGIN, [AMIType(Virtualization.HVM, "standard")])
    site.store.record_ami(image, private)
    site.ec2().modify_image_attribute(
        ImageId=private.id, LaunchPermission={"Add": [{"Group": "all"}]}
    )
    found = [
        each
        for result in verify.verify_regions(site.settings, site.store, site.clients, REGIONS)
        for each in result.differences
    ]
    plan = repair.plan(found, site.store.all_amis(), site.store.job, [row.ami for row in hidden])
    asked = [each.what for each in repair.ask(site.store, plan.actions, "me")]
    assert sorted(asked) == ["hide AMI", "publish AMI", "publish AMI"]
    changed_through_kills(
        workers, REPAIRING, lambda: PendingChanges(site.store).all() == [], several=several
    )
    assert differences(site) == []
    assert announced(site, "image.restore") == 2
    assert all(each.ended and not each.given_up for each in Repairs(site.store).all())


@pytest.mark.long
@pytest.mark.timeout(1200)
@STORES
def test_retention_goes_on_after_a_kill_at_each_step(
    site: Site, workers: Workers, ec2: EC2, *, several: bool
) -> None:
    site.publish()
    launched_long_ago(site, ec2)
    ask(site, DEPRECATE)
    changed_through_kills(
        workers,
        DEPRECATION,
        lambda: all(row.deprecate_at for row in site.rows()),
        several=several,
    )
    assert differences(site) == []
    assert announced(site, "image.deprecate") == 4

    ask(site, DISABLE)
    changed_through_kills(workers, DISABLING, lambda: all_are(site, rows.DISABLED), several=several)
    assert differences(site) == []
    assert announced(site, "image.withdraw") == 4
    assert all((row.permissions or {})["launch"] == [{"Group": "all"}] for row in site.rows())

    ask(site, DELETE)
    changed_through_kills(workers, REMOVAL, lambda: site.rows() == [], several=several)
    assert differences(site) == []
    assert announced(site, "image.delete") == 4
    assert all(each.ended and not each.kept for each in Prunings(site.store).all())
    assert site.account.live(site.settings.site) == []


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_another_worker_goes_on_with_a_dead_ones_removal(
    site: Site, workers: Workers, ec2: EC2
) -> None:
    for _ in range(2):
        site.publish()
    launched_long_ago(site, ec2)
    site.store.write(sa.update(amis).values(published_at=time.time() - 300 * 86400))
    with workers.config.open("a") as config:
        config.write("[retention]\nautomatic = true\n")
    # The leader asks by itself.
    killed = workers.start("Pruning._disable")
    workers.start()
    until(lambda: all_are(site, rows.DISABLED), workers)
    ask(site, DELETE)
    until(lambda: site.rows() == [], workers)
    assert killed.poll() in (None, -9)
    assert announced(site, "image.withdraw") == announced(site, "image.delete") == 8
    assert site.account.live(site.settings.site) == []


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_another_worker_goes_on_with_a_dead_ones_withdrawal_and_restoration(
    site: Site, workers: Workers
) -> None:
    images = [site.publish() for _ in range(2)]
    for image in images:
        withdraw(site, image.name)
    killed = workers.start("_hide")
    workers.start()
    until(lambda: killed.poll() is not None or all_are(site, rows.WITHDRAWN), workers)
    until(lambda: all_are(site, rows.WITHDRAWN), workers)
    assert differences(site) == []
    assert announced(site, "image.withdraw") == 8

    for image in images:
        Withdrawals(site.store).restore(targets.to_restore(site.store, image.name).amis, by="me")
    workers.start("_share")
    until(lambda: all_are(site, rows.PUBLIC), workers)
    assert differences(site) == []
    assert announced(site, "image.restore") == 8


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_restoration_begins_after_the_withdrawal_that_a_killed_worker_left(
    site: Site, workers: Workers
) -> None:
    image = site.publish()
    withdraw(site, image.name)
    assert workers.start("_hide").wait(PATIENCE) == -9
    Withdrawals(site.store).restore(targets.to_restore(site.store, image.name).amis, by="me")
    workers.start()
    until(lambda: all_are(site, rows.PUBLIC), workers)
    assert differences(site) == []
    assert announced(site, "image.withdraw") == 0
    assert announced(site, "image.restore") == 4


@pytest.mark.long
@pytest.mark.timeout(1200)
@STORES
def test_audience_is_changed_through_a_kill_at_each_step(
    site: Site, workers: Workers, *, several: bool
) -> None:
    image = site.publish(audience=Audience(("111122223333",)))
    audience = Audience(("210987654321",))
    wanted = [(row, audience) for row in site.rows(image)]
    Shares(site.store).change(wanted, by="me")
    changed_through_kills(workers, SHARING, lambda: all_are(site, rows.SHARED), several=several)
    assert differences(site) == []
    # Each was announced when it was shared at first.
    assert announced(site, "image.share") == 8
    assert {row.shared_with for row in site.rows()} == {audience}
