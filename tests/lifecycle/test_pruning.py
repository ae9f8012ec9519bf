"""AMIs are deprecated, disabled and removed: fedimg.lifecycle.pruning and prune, on the lab.

Follows fedimg/aws/retirement.py, fedimg/lifecycle/observation.py, fedimg/lifecycle/retention.py,
fedimg/store/prunings.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from fedimg.aws import survey, tags
from fedimg.config import Retention, Rule, Settings
from fedimg.exceptions import EC2ServiceException
from fedimg.images import RawImage
from fedimg.jobs.holds import Holds
from fedimg.jobs.outages import Outages
from fedimg.lifecycle import observation, retention, targets, verify
from fedimg.lifecycle.decisions import Verdict
from fedimg.lifecycle.problems import freed, problems
from fedimg.lifecycle.pruning import Pruning
from fedimg.lifecycle.retention import WorkerRetention
from fedimg.lifecycle.withdraw_and_restore import WithdrawAndRestore
from fedimg.steps import PlainSteps
from fedimg.store import rows
from fedimg.store.changes import PendingChanges
from fedimg.store.prunings import Prunings
from fedimg.store.rows import AMIRow
from fedimg.store.tables import amis, changes
from fedimg.store.verifications import Verifications
from fedimg.store.withdrawals import Withdrawals
from fedimg.values.audience import Audience
from lab import leaks
from lab.ec2.server import EC2
from tests.lifecycle.conftest import FURTHER, ORIGIN, REGIONS, TYPES, Site
from tests.lifecycle.lost import lose, recovered

DAY = 86400.0
RULE = Rule(deprecate_after=100, disable_after=200, delete_after=230, keep_newest=0, unused_for=3)


@pytest.fixture
def world(ec2: EC2) -> Any:
    """Return the inside of the lab's EC2, for what only time does."""
    return ec2._world


class Pruned:
    """A site with rules of retention, whose AMIs are as old as a test says."""

    def __init__(self, site: Site, world: Any) -> None:
        self.site = site
        self.world = world
        self.rules(RULE)

    def rules(self, *rules: Rule, **options: Any) -> Settings:
        retention = Retention(rules=list(rules), **options)
        self.site.settings = self.site.settings.model_copy(update={"retention": retention})
        return self.site.settings

    def publish(self, age: float, launched: float | None = 50, **options: Any) -> RawImage:
        """Publish an image `age` days ago, launched last `launched` days ago."""
        image = self.site.publish(**options)
        self.age(image, age)
        for row in self.site.rows(image):
            self.launch(row, launched)
        return image

    def age(self, image: RawImage, days: float) -> None:
        at = time.time() - days * DAY
        self.site.store.write(
            sa.update(amis).where(amis.c.job == image.job).values(published_at=at)
        )

    def disabled_since(self, image: RawImage, days: float) -> None:
        at = time.time() - days * DAY
        self.site.store.write(sa.update(amis).where(amis.c.job == image.job).values(changed_at=at))

    def launch(self, row: AMIRow, days: float | None) -> None:
        """Let an AMI have been launched last so many days ago."""
        with self.world.lock:
            launches = [] if days is None else [datetime.now(UTC) - timedelta(days=days)]
            self.world.images[row.ami].launches = launches

    def decisions(self, **options: Any) -> observation.Decisions:
        client = WorkerRetention(
            self.site.settings, self.site.store, self.site.clients, threading.Event()
        )._client
        return observation.decisions(
            self.site.settings, self.site.store, client, REGIONS, **options
        )

    def verdicts(self, image: RawImage, **options: Any) -> set[Verdict]:
        made = self.decisions(**options).made
        return {each.verdict for each in made if each.row.job == image.job}

    def ask(self, **options: Any) -> int:
        made = self.decisions(**options).made
        store = Prunings(self.site.store)
        return len(store.ask(retention.requests(made), by="me", **options))

    def carry_out(self) -> None:
        carry_out(self.site)

    def prune(self, **options: Any) -> None:
        self.ask(**options)
        self.carry_out()


@pytest.fixture
def pruned(site: Site, world: Any) -> Pruned:
    return Pruned(site, world)


def carry_out(site: Site) -> None:
    """Make every change that is due, as the workflows do."""
    stop = threading.Event()
    withdrawing = WithdrawAndRestore(
        site.settings, site.store, site.queue, site.clients, PlainSteps(), stop
    )
    pruning = Pruning(site.settings, site.store, site.clients, PlainSteps(), stop)
    for change in PendingChanges(site.store).due():
        workflow: Any = withdrawing if change.what in ("withdraw", "restore") else pruning
        getattr(workflow, change.what)(change.job, change.region, change.at)


def due_now(site: Site) -> None:
    site.store.write(sa.update(changes).values(due=0))


def states(site: Site, image: RawImage) -> set[str]:
    return {row.state for row in site.store.all_amis() if row.job == image.job}


def messages(site: Site, topic: str) -> list[dict[str, Any]]:
    return [row.body for row in site.store.unannounced() if row.topic == topic]


def differences(site: Site) -> list[str]:
    results = verify.verify_regions(site.settings, site.store, site.clients, REGIONS)
    return [verify.text_of(each) for result in results for each in result.differences]


def forgotten(site: Site) -> list[str]:
    """Return where the lab's ledger and the record contradict each other."""
    things = leaks.things(site.account.live(site.settings.site))
    return leaks.forgotten(things, [asdict(row) for row in site.rows()])


def snapshots(site: Site, region: str, ids: Sequence[str]) -> list[str]:
    filters = [{"Name": "snapshot-id", "Values": list(ids)}]
    shown = site.ec2(region).describe_snapshots(OwnerIds=["self"], Filters=filters)["Snapshots"]
    return sorted(each["SnapshotId"] for each in shown)


def test_ami_is_deprecated_disabled_and_removed(pruned: Pruned) -> None:
    site = pruned.site
    image, kept = pruned.publish(150), pruned.publish(10)
    pruned.prune()
    (told, *others) = messages(site, "image.deprecate")
    assert len(others) == 3
    for row in site.rows(image):
        assert row.deprecate_at is not None
        assert row.deprecate_at > time.time()
        when = time.strftime("%Y-%m-%dT%H:%M:00.000Z", time.gmtime(row.deprecate_at))
        assert site.shown(row)["DeprecationTime"] == when
    assert told["extra"]["deprecate_at"].endswith(":00Z")
    assert differences(site) == []
    # Once is enough.
    assert pruned.ask() == 0

    pruned.age(image, 200)
    pruned.prune()
    assert states(site, image) == {rows.DISABLED}
    for row in site.rows(image):
        assert row.permissions == {
            "launch": [{"Group": "all"}],
            "snapshot": [{"Group": "all"}],
        }
        assert row.changed_by == "me"
        assert "disable_after = 200" in str(row.reason)
        assert not site.snapshot_is_public(row.region, row.snapshot)
    assert len(messages(site, "image.withdraw")) == 4
    assert differences(site) == []
    # A clean-up knows that they were public, and so does the ledger's comparison with the record.
    seen = survey.take(site.clients, site.settings.site, REGIONS)
    assert seen.left == []
    assert {row.ami for row in site.rows(image)} <= {each.id for each in seen.once_public}
    assert forgotten(site) == []
    # The days of the grace count from the disabling.
    pruned.age(image, 300)
    assert pruned.ask() == 0

    gone = [(row.region, row.snapshot) for row in site.rows(image)]
    pruned.disabled_since(image, 30)
    pruned.prune()
    assert states(site, image) == {rows.DELETED}
    assert site.rows(image) == []
    assert [snapshots(site, region, [id]) for region, id in gone] == [[]] * 4
    assert len(messages(site, "image.delete")) == 4
    assert differences(site) == []
    assert {row["tags"][tags.JOB] for row in site.account.live(site.settings.site)} == {kept.job}
    assert states(site, kept) == {rows.PUBLIC}
    assert forgotten(site) == []
    # What is gone is still known as once public.
    assert {id for _, id in gone} <= site.store.ever_public()
    assert all(each.ended and not each.kept for each in Prunings(site.store).all())


def test_disabled_image_is_restored_and_its_days_count_from_then(pruned: Pruned) -> None:
    site = pruned.site
    image = pruned.publish(300)
    pruned.prune()
    found = targets.to_restore(site.store, image.name)
    assert len(found.amis[image.job]) == 4
    Withdrawals(site.store).restore(found.amis, by="me")
    carry_out(site)
    assert states(site, image) == {rows.PUBLIC}
    assert all(site.shown(row)["Public"] for row in site.rows(image))
    assert differences(site) == []
    assert pruned.verdicts(image) == {Verdict.KEEP}


def test_withdrawal_takes_disabled_amis_along_and_keeps_them(pruned: Pruned) -> None:
    site = pruned.site
    image = pruned.publish(300)
    pruned.prune()
    found = targets.to_withdraw(site.store, image.name)
    Withdrawals(site.store).withdraw(
        found.amis, found.regions, by="me", reason="bad", replacement=None
    )
    carry_out(site)
    assert states(site, image) == {rows.WITHDRAWN}
    pruned.age(image, 1000)
    pruned.disabled_since(image, 500)
    assert pruned.ask() == 0
    assert differences(site) == []


def test_withdrawal_overtakes_a_disabling_and_no_removal(pruned: Pruned) -> None:
    site = pruned.site
    image = pruned.publish(300, regions=[ORIGIN])
    pruned.ask()
    assert states(site, image) == {rows.DISABLING}
    found = targets.to_withdraw(site.store, image.name)
    Withdrawals(site.store).withdraw(
        found.amis, found.regions, by="me", reason="bad", replacement=None
    )
    carry_out(site)
    assert states(site, image) == {rows.WITHDRAWN}

    other = pruned.publish(300, regions=[ORIGIN])
    pruned.prune()
    pruned.disabled_since(other, 40)
    first, second = site.rows(other)
    pruned.launch(second, 2)
    pruned.ask()
    assert {row.ami: row.state for row in site.rows(other)} == {
        first.ami: rows.DELETING,
        second.ami: rows.DISABLED,
    }
    found = targets.to_withdraw(site.store, other.name)
    assert [row.ami for row in found.amis[other.job]] == [second.ami]
    Withdrawals(site.store).withdraw(
        found.amis, found.regions, by="me", reason="bad", replacement=None
    )
    for _ in range(2):
        carry_out(site)
    assert {row.ami: row.state for row in site.store.all_amis() if row.job == other.job} == {
        first.ami: rows.DELETED,
        second.ami: rows.WITHDRAWN,
    }
    assert PendingChanges(site.store).all() == []


def test_snapshot_goes_with_its_last_ami(pruned: Pruned) -> None:
    site = pruned.site
    image = pruned.publish(300, regions=[ORIGIN])
    first, second = site.rows(image)
    assert first.snapshot == second.snapshot
    pruned.launch(second, 2)
    pruned.prune()
    # The snapshot of the one that stays is public.
    assert {row.state for row in site.rows(image)} == {rows.PUBLIC, rows.DISABLED}
    assert site.snapshot_is_public(ORIGIN, first.snapshot)
    pruned.disabled_since(image, 40)
    pruned.age(image, 300)
    pruned.prune()
    assert [row.ami for row in site.rows(image)] == [second.ami]
    assert snapshots(site, ORIGIN, [first.snapshot]) == [first.snapshot]
    assert differences(site) == []
    pruned.launch(second, 40)
    pruned.disabled_since(image, 300)
    pruned.prune()
    assert {row.state for row in site.rows(image)} == {rows.DISABLED}
    pruned.disabled_since(image, 40)
    pruned.prune()
    assert site.rows(image) == []
    assert snapshots(site, ORIGIN, [first.snapshot]) == []
    assert site.account.live(site.settings.site) == []


def test_snapshot_that_ec2_did_not_delete_with_its_ami_is_deleted(pruned: Pruned) -> None:
    site = pruned.site
    image = pruned.publish(300, regions=[ORIGIN])
    pruned.prune()
    pruned.disabled_since(image, 40)
    pruned.ask()
    site.account.refuse(
        ORIGIN, DeleteSnapshot="UnauthorizedOperation", SnapshotDeletion="missing-permissions"
    )
    carry_out(site)
    assert states(site, image) == {rows.DELETING}
    (change,) = PendingChanges(site.store).all()
    assert "DeleteSnapshot" in str(change.error) or "Unauthorized" in str(change.error)
    assert messages(site, "image.delete") == []
    site.account.refuse_nothing()
    due_now(site)
    carry_out(site)
    assert states(site, image) == {rows.DELETED}
    assert site.account.live(site.settings.site) == []


def test_protected_ami_is_kept_and_its_cooldown_waited_for(pruned: Pruned) -> None:
    site = pruned.site
    image = pruned.publish(300, regions=[ORIGIN], types=TYPES[:1])
    (row,) = site.rows(image)
    pruned.prune()
    pruned.disabled_since(image, 40)
    site.ec2().enable_image_deregistration_protection(ImageId=row.ami, WithCooldown=True)
    assert pruned.verdicts(image) == {Verdict.KEEP}
    site.ec2().disable_image_deregistration_protection(ImageId=row.ami)
    pruned.prune()
    assert states(site, image) == {rows.DELETING}
    assert any("cool-down" in text for text in problems(site.store))
    pruned.world.images[row.ami].cooldown_until = datetime.now(UTC)
    due_now(site)
    carry_out(site)
    assert states(site, image) == {rows.DELETED}


@pytest.mark.parametrize("protection", ["on", "with cool-down"])
def test_protection_of_fedimgs_own_is_ended_by_the_removal(pruned: Pruned, protection: str) -> None:
    site = pruned.site
    site.set_amis(deregistration_protection=protection)
    image = pruned.publish(300, regions=[ORIGIN], types=TYPES[:1])
    (row,) = site.rows(image)
    assert site.shown(row)["DeregistrationProtection"].startswith("enabled")
    pruned.prune()
    pruned.disabled_since(image, 40)
    assert pruned.verdicts(image) == {Verdict.DELETE}
    pruned.prune()
    if protection == "with cool-down":
        assert states(site, image) == {rows.DELETING}
        assert any("its cool-down lasts up to 24 hours" in text for text in problems(site.store))
        pruned.world.images[row.ami].cooldown_until = datetime.now(UTC)
        due_now(site)
        carry_out(site)
    assert states(site, image) == {rows.DELETED}
    assert site.account.live(site.settings.site) == []


def test_region_that_is_away_neither_blocks_nor_is_forgotten(pruned: Pruned) -> None:
    site = pruned.site
    image = pruned.publish(300)
    pruned.ask()
    outages = Outages(site.store, site.settings.ec2.limits)
    outages.begin(FURTHER, "it does not answer")
    carry_out(site)
    by_region = {row.region: row.state for row in site.rows(image)}
    assert by_region == {ORIGIN: rows.DISABLED, FURTHER: rows.DISABLING}
    assert any(FURTHER in text and "disabl" in text for text in problems(site.store))
    assert all("not disabled yet" in text for text in differences(site))
    # The change itself is told; it is nothing that a person has to look at.
    assert [each.differences for each in Verifications(site.store).all()] == [[], []]
    (outage,) = outages.all()
    outages.end(outage)
    due_now(site)
    carry_out(site)
    assert states(site, image) == {rows.DISABLED}
    assert differences(site) == []


def test_what_changed_since_the_decision_is_kept(pruned: Pruned) -> None:
    site = pruned.site
    image = pruned.publish(300, regions=[ORIGIN])
    pruned.ask()
    for row in site.rows(image):
        pruned.launch(row, 2)
    carry_out(site)
    assert states(site, image) == {rows.PUBLIC}
    assert PendingChanges(site.store).all() == []
    assert all("unused_for" in str(each.kept) for each in Prunings(site.store).all())
    assert all(site.shown(row)["Public"] for row in site.rows(image))
    assert messages(site, "image.withdraw") == []


def everybody(site: Site, row: AMIRow) -> None:
    """Enable and publish an AMI, as a person does."""
    site.ec2(row.region).enable_image(ImageId=row.ami)
    site.ec2(row.region).modify_image_attribute(
        ImageId=row.ami, LaunchPermission={"Add": [{"Group": "all"}]}
    )


def test_disabled_ami_that_a_person_made_public_is_not_removed(pruned: Pruned) -> None:
    site = pruned.site
    image = pruned.publish(300, regions=[ORIGIN])
    pruned.prune()
    pruned.disabled_since(image, 40)
    before, meanwhile = site.rows(image)
    everybody(site, before)
    assert pruned.ask() == 1
    everybody(site, meanwhile)
    carry_out(site)
    assert states(site, image) == {rows.DISABLED}
    assert all(site.shown(row)["Public"] for row in (before, meanwhile))
    assert PendingChanges(site.store).all() == []
    assert messages(site, "image.delete") == []
    (kept,) = [each.kept for each in Prunings(site.store).all() if each.what == "delete"]
    assert "EC2 shows it public and enabled" in str(kept)


def test_ami_is_looked_at_once_more_before_it_is_deregistered(pruned: Pruned) -> None:
    site = pruned.site
    image = pruned.publish(300, regions=[ORIGIN])
    pruned.prune()
    pruned.disabled_since(image, 40)
    pruned.ask()
    (change,) = PendingChanges(site.store).all()
    public, gone = site.rows(image)
    workflow = Pruning(site.settings, site.store, site.clients, PlainSteps(), threading.Event())
    workflow._check("delete", change.job, change.region, change.at)
    everybody(site, public)
    workflow._remove(change.job, change.region, change.at)
    workflow._end("delete", change.job, change.region, change.at)
    assert site.shown(public)["Public"]
    assert {row.ami: row.state for row in site.store.all_amis()} == {
        public.ami: rows.DISABLED,
        gone.ami: rows.DELETED,
    }
    assert len(messages(site, "image.delete")) == 1
    assert snapshots(site, ORIGIN, [public.snapshot]) == [public.snapshot]


def test_public_ami_that_a_person_hid_is_neither_disabled_nor_a_newest_one(
    pruned: Pruned,
) -> None:
    site = pruned.site
    old, newer = pruned.publish(300, regions=[ORIGIN]), pruned.publish(250, regions=[ORIGIN])
    pruned.rules(RULE.model_copy(update={"keep_newest": 1}))
    pruned.ask()
    for row in site.rows(newer):
        site.hide(row)
    # The older one was asked for while the newer one was public.
    assert (states(site, old), states(site, newer)) == ({rows.DISABLING}, {rows.PUBLIC})
    carry_out(site)
    assert pruned.ask() == 0
    assert (states(site, old), states(site, newer)) == ({rows.PUBLIC}, {rows.PUBLIC})
    assert all(site.shown(row)["Public"] for row in site.rows(old))


def test_disabling_goes_on_where_ec2_cannot_disable(pruned: Pruned) -> None:
    site = pruned.site
    image = pruned.publish(300, regions=[ORIGIN], types=TYPES[:1])
    pruned.ask()
    (change,) = PendingChanges(site.store).all()
    (row,) = site.rows(image)
    site.account.refuse(ORIGIN, DisableImage="InvalidAction")
    workflow = Pruning(site.settings, site.store, site.clients, PlainSteps(), threading.Event())
    workflow._record_permissions(change.job, change.region, change.at)
    workflow._disable(change.job, change.region, change.at)
    assert not site.shown(row)["Public"]
    # The process was killed here.
    carry_out(site)
    assert states(site, image) == {rows.DISABLED}


def test_request_that_a_withdrawal_replaced_says_nothing_about_later_ones(pruned: Pruned) -> None:
    site = pruned.site
    image = pruned.publish(300, launched=None, regions=[ORIGIN])
    pruned.ask(unlaunched=True)
    found = targets.to_withdraw(site.store, image.name)
    Withdrawals(site.store).withdraw(
        found.amis, found.regions, by="me", reason="bad", replacement=None
    )
    carry_out(site)
    Withdrawals(site.store).restore(targets.to_restore(site.store, image.name).amis, by="me")
    carry_out(site)
    assert states(site, image) == {rows.PUBLIC}
    pruned.disabled_since(image, 300)
    # Nobody is known to have used the first one, and a worker by itself disables it not.
    _, used = site.rows(image)
    pruned.launch(used, 50)
    assert pruned.ask() == 1
    pruned.launch(used, None)
    carry_out(site)
    assert states(site, image) == {rows.PUBLIC}
    replaced = [each.kept for each in Prunings(site.store).all() if each.unlaunched]
    assert replaced == ["a later command replaced it"] * 2


def test_end_of_a_request_that_a_withdrawal_replaced_records_and_announces_nothing(
    pruned: Pruned,
) -> None:
    """The withdrawal may come between the last effect of a workflow and its end."""
    site = pruned.site
    image = pruned.publish(300)
    assert pruned.ask() > 0
    old = PendingChanges(site.store).all()
    found = targets.to_withdraw(site.store, image.name)
    Withdrawals(site.store).withdraw(
        found.amis, found.regions, by="me", reason="bad", replacement=None
    )
    for each in old:
        assert not Prunings(site.store).done(
            each.what,
            each.job,
            each.region,
            each.at,
            site.rows(image),
            {},
            [("key", "image.withdraw", {})],
        )
    assert states(site, image) == {rows.WITHDRAWING}
    assert messages(site, "image.withdraw") == []
    assert {change.what for change in PendingChanges(site.store).all()} == {"withdraw"}


def test_deprecation_that_is_not_finished_is_no_unknown_date(pruned: Pruned) -> None:
    site = pruned.site
    pruned.publish(150, regions=[ORIGIN])
    pruned.ask()
    (change,) = PendingChanges(site.store).all()
    stop = threading.Event()
    workflow = Pruning(site.settings, site.store, site.clients, PlainSteps(), stop)
    workflow._deprecate(change.job, change.region, change.at)
    assert all("its deprecation is not finished" in text for text in differences(site))
    assert len(differences(site)) == 2
    carry_out(site)
    assert differences(site) == []


def test_throttled_calls_are_repeated(pruned: Pruned) -> None:
    site = pruned.site
    image = pruned.publish(300, regions=[ORIGIN])
    pruned.ask()
    site.account.refuse(ORIGIN, DisableImage="RequestLimitExceeded")
    threading.Timer(0.5, site.account.refuse_nothing).start()
    carry_out(site)
    due_now(site)
    carry_out(site)
    assert states(site, image) == {rows.DISABLED}


def test_person_counts_what_was_never_launched(pruned: Pruned) -> None:
    site = pruned.site
    image = pruned.publish(300, launched=None, regions=[ORIGIN])
    assert pruned.verdicts(image) == {Verdict.KEEP}
    pruned.prune(unlaunched=True)
    assert states(site, image) == {rows.DISABLED}


@pytest.mark.parametrize("seconds", [-310, 310])
def test_wrong_clock_decides_and_changes_nothing(
    pruned: Pruned, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = pruned.site
    image = pruned.publish(300, regions=[ORIGIN])
    pruned.ask()
    wrong = SimpleNamespace(time=lambda: time.time() + seconds)
    monkeypatch.setattr(observation, "time", wrong)
    found = pruned.decisions()
    assert list(found.made) == []
    assert set(found.errors) == set(REGIONS)
    assert "correct the clock" in found.errors[ORIGIN]
    carry_out(site)
    assert states(site, image) == {rows.DISABLING}
    assert all(site.shown(row)["Public"] for row in site.rows(image))
    (change,) = PendingChanges(site.store).all()
    assert "clock" in str(change.error)


def test_answer_without_a_date_is_refused() -> None:
    for date in ("", "yesterday"):
        with pytest.raises(EC2ServiceException, match="no date"):
            observation.refuse_wrong_clock(date, time.time(), ORIGIN)


def worker(pruned: Pruned) -> WorkerRetention:
    site = pruned.site
    return WorkerRetention(site.settings, site.store, site.clients, threading.Event())


def test_worker_by_itself_changes_at_most_so_many_a_day(pruned: Pruned) -> None:
    site = pruned.site
    old, older = pruned.publish(300), pruned.publish(400)
    pruned.rules(RULE, automatic=False)
    worker(pruned).apply()
    assert PendingChanges(site.store).all() == []

    pruned.rules(RULE, automatic=True, most_a_day=3)
    Holds(site.store).begin("me", "a move")
    worker(pruned).apply()
    assert PendingChanges(site.store).all() == []
    Holds(site.store).release("me")
    for _ in range(2):
        worker(pruned).apply()
        carry_out(site)
    by_state = [row.state for row in site.rows(older)]
    assert sorted(by_state) == [rows.DISABLED] * 3 + [rows.PUBLIC]
    assert states(site, old) == {rows.PUBLIC}
    assert {each.by for each in Prunings(site.store).all()} == {retention.BY_ITSELF}


def test_status_tells_what_the_rules_would_free(pruned: Pruned) -> None:
    site = pruned.site
    pruned.publish(300)
    pruned.publish(10, regions=[ORIGIN])
    assert freed(site.store, automatic=False) is None
    differences(site)
    worker(pruned).apply()
    text = freed(site.store, automatic=False)
    assert text is not None
    assert f"{FURTHER}, {ORIGIN}: 2" in text
    assert "'fedimg prune'" in text
    # The AMIs of a region are gone, and then the rules.
    further = amis.c.region == FURTHER
    site.store.write(sa.update(amis).where(further).values(state=rows.DELETED, public=False))
    worker(pruned).apply()
    assert f"{ORIGIN}: 2" in str(freed(site.store, automatic=False))
    assert FURTHER not in str(freed(site.store, automatic=False))
    pruned.rules()
    worker(pruned).apply()
    assert freed(site.store, automatic=False) is None


def test_recycle_bins_rules_for_amis_and_snapshots_are_named(
    pruned: Pruned, caplog: pytest.LogCaptureFixture
) -> None:
    site = pruned.site
    rbin = site.hands.client("rbin", ORIGIN)
    rules = {
        what: rbin.create_rule(
            ResourceType=resource_type,
            RetentionPeriod={"RetentionPeriodValue": 7, "RetentionPeriodUnit": "DAYS"},
            Description=f"all {what}",
        )["Identifier"]
        for what, resource_type in (("AMIs", "EC2_IMAGE"), ("snapshots", "EBS_SNAPSHOT"))
    }
    image = pruned.publish(300, regions=[ORIGIN])
    (snapshot,) = {row.snapshot for row in site.rows(image)}
    removed = {row.ami for row in site.rows(image)}
    pruned.prune()
    pruned.disabled_since(image, 40)
    with caplog.at_level("INFO"):
        pruned.prune()
    assert states(site, image) == {rows.DELETED}
    kept = site.ec2().list_snapshots_in_recycle_bin(SnapshotIds=[snapshot])["Snapshots"]
    assert [each["SnapshotId"] for each in kept] == [snapshot]
    assert f"the Recycle Bin keeps snapshot {snapshot} until" in caplog.text
    for ami in removed:
        assert f"the Recycle Bin keeps AMI {ami} until" in caplog.text
    for what, rule in rules.items():
        assert f", by rule {rule} (7 days, all {what}) for {what}" in caplog.text
        rbin.delete_rule(Identifier=rule)


def test_recovered_amis_that_a_rule_disabled_are_disabled_by_it_and_removed(
    pruned: Pruned,
) -> None:
    site = pruned.site
    image, withdrawn = pruned.publish(300), pruned.publish(300, regions=[ORIGIN])
    pruned.prune()
    assert states(site, image) == states(site, withdrawn) == {rows.DISABLED}
    disabled_at = [row.changed_at or 0 for row in site.rows(image)]
    # A person disabled this one, and the withdrawal of that one did not reach it.
    by_hand = site.row(image, FURTHER)
    site.ec2(FURTHER).delete_tags(Resources=[by_hand.ami], Tags=[{"Key": tags.WITHDRAWN}])
    at = datetime.now(UTC) + timedelta(seconds=5)
    value = tags.withdrawal(at, restored=False)
    marked, unmarked = site.rows(withdrawn)
    site.ec2().create_tags(Resources=[marked.ami], Tags=tags.as_tags({tags.WITHDRAWN: value}))
    lose(site)
    recovered(site)
    assert {row.ami: row.state for row in site.rows(image)} == {
        row.ami: rows.UNKNOWN if row.ami == by_hand.ami else rows.DISABLED
        for row in site.rows(image)
    }
    assert {row.ami: row.state for row in site.rows(withdrawn)} == {
        marked.ami: rows.WITHDRAWN,
        unmarked.ami: rows.WITHDRAWING,
    }
    kept = [row for row in site.rows(image) if row.ami != by_hand.ami]
    assert all(abs((row.changed_at or 0) - disabled_at[0]) < 60 for row in kept)
    assert {row.reason for row in kept} == {"disabled by a rule, before the database was rebuilt"}

    # The rules go on with them, and a person may bring them back.
    pruned.age(image, 300)
    pruned.disabled_since(image, 40)
    assert {row.ami for row in targets.to_restore(site.store, image.name).amis[image.job]} == {
        row.ami for row in kept
    }
    pruned.prune()
    assert {row.ami for row in site.rows(image)} == {by_hand.ami}


def test_private_amis_go_by_the_same_rules(
    pruned: Pruned,
) -> None:
    site, audience = pruned.site, Audience(("210987654321",))
    image = site.publish(audience=audience)
    for row in site.rows(image):
        pruned.launch(row, 50)

    def shared_since(days: float) -> None:
        at = time.time() - days * DAY
        of_job = sa.update(amis).where(amis.c.job == image.job)
        site.store.write(of_job.values(shared_at=at, changed_at=None))

    shared_since(150)
    pruned.prune()
    assert states(site, image) == {rows.SHARED}
    assert all(row.deprecate_at for row in site.rows(image))
    shared_since(200)
    pruned.prune()
    assert states(site, image) == {rows.DISABLED}
    assert site.shown(site.row(image))["State"] == "disabled"
    pruned.disabled_since(image, 30)
    assert pruned.verdicts(image) == {Verdict.KEEP}
    assert len(messages(site, "image.withdraw")) == len(site.rows(image))
    ids = {row.region: row.snapshot for row in site.rows(image)}
    at = time.time() - 230 * DAY
    site.store.write(sa.update(amis).where(amis.c.job == image.job).values(shared_at=at))
    pruned.prune()
    assert states(site, image) == {rows.DELETED}
    assert all(not snapshots(site, region, [id]) for region, id in ids.items())
    assert forgotten(site) == []


def test_private_ami_that_a_person_made_public_is_kept(pruned: Pruned) -> None:
    site = pruned.site
    image = site.publish(audience=Audience(("210987654321",)))
    for row in site.rows(image):
        pruned.launch(row, 50)
    at = time.time() - 300 * DAY
    site.store.write(sa.update(amis).where(amis.c.job == image.job).values(shared_at=at))
    row = site.row(image)
    everybody = {"Add": [{"Group": "all"}]}
    site.ec2().modify_image_attribute(ImageId=row.ami, LaunchPermission=everybody)
    kept = [each for each in pruned.decisions().made if each.row.ami == row.ami]
    assert [each.verdict for each in kept] == [Verdict.KEEP]
    assert "recorded as shared, and EC2 shows it public" in kept[0].why


@pytest.mark.parametrize("audience", [Audience(("210987654321",)), Audience()])
def test_private_ami_that_was_launched_after_a_try_that_failed_is_kept(
    pruned: Pruned, audience: Audience
) -> None:
    site = pruned.site
    image = site.publish(regions=[ORIGIN], types=TYPES[:1], audience=audience)
    row = site.row(image)
    pruned.launch(row, 50)
    at = time.time() - 300 * DAY
    site.store.write(sa.update(amis).where(amis.c.job == image.job).values(shared_at=at))
    pruned.ask()
    site.account.refuse(ORIGIN, DisableImage="UnauthorizedOperation")
    carry_out(site)
    assert site.row(image).permissions is not None
    assert states(site, image) == {rows.DISABLING}
    site.account.refuse_nothing()
    pruned.launch(row, 0)
    due_now(site)
    carry_out(site)
    assert states(site, image) == {rows.SHARED}
    assert site.shown(row)["State"] == "available"
    assert messages(site, "image.withdraw") == []
    # Its tag does not tell that the rule disabled it, whoever reads it after the database is lost.
    lose(site)
    recovered(site)
    assert states(site, image) == {rows.SHARED}
    site.ec2().disable_image(ImageId=row.ami)
    lose(site)
    recovered(site)
    assert states(site, image) == {rows.UNKNOWN}


def test_disabling_of_private_amis_goes_on_where_ec2_cannot_disable(pruned: Pruned) -> None:
    site = pruned.site
    image = site.publish(regions=[ORIGIN], types=TYPES[:1], audience=Audience(("210987654321",)))
    row = site.row(image)
    pruned.launch(row, 50)
    at = time.time() - 300 * DAY
    site.store.write(sa.update(amis).where(amis.c.job == image.job).values(shared_at=at))
    pruned.ask()
    # The earlier try got as far as this.
    before = {"launch": [{"UserId": "210987654321"}], "snapshot": []}
    Withdrawals(site.store).record_permissions(site.row(image), before)
    site.hide(row)
    pruned.launch(row, 0)
    carry_out(site)
    assert states(site, image) == {rows.DISABLED}
