"""An image is withdrawn, restored and accepted as a person made it, on the lab.

Follows fedimg/aws/permissions.py, fedimg/lifecycle/accept.py, fedimg/lifecycle/targets.py,
fedimg/store/changes.py, fedimg/store/withdrawals.py.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from typing import Any

import pytest
import sqlalchemy as sa

from fedimg.aws import survey, tags
from fedimg.identity import Known
from fedimg.images import RawImage
from fedimg.jobs.holds import Holds
from fedimg.jobs.outages import Outages
from fedimg.jobs.recorder import Recorder
from fedimg.lifecycle import accept, targets, verify
from fedimg.lifecycle.due_changes import DueChanges
from fedimg.lifecycle.problems import problems
from fedimg.lifecycle.repair import ami_of
from fedimg.lifecycle.withdraw_and_restore import WithdrawAndRestore
from fedimg.progress import CheckResult, CheckState
from fedimg.steps import PlainSteps
from fedimg.store import rows
from fedimg.store.changes import RESTORE, WITHDRAW, PendingChanges
from fedimg.store.tables import amis, changes, offered
from fedimg.store.twins import ImageWithdrawn
from fedimg.store.withdrawals import Withdrawals
from lab import leaks
from tests.lifecycle import stranger
from tests.lifecycle.conftest import FURTHER, ORIGIN, REGIONS, TYPES, Site
from tests.lifecycle.stranger import STRANGER


def changes_of(site: Site) -> WithdrawAndRestore:
    return WithdrawAndRestore(
        site.settings, site.store, site.queue, site.clients, PlainSteps(), threading.Event()
    )


def withdraw(site: Site, name: str, replacement: str | None = None) -> None:
    """Record a withdrawal, as the command does."""
    found = targets.to_withdraw(site.store, name)
    assert found.jobs
    Withdrawals(site.store).withdraw(
        found.amis, found.regions, by="me", reason="a bad kernel", replacement=replacement
    )


def restore(site: Site, name: str) -> list[str]:
    """Record a restoration, as the command does; return what is left alone."""
    found = targets.to_restore(site.store, name)
    Withdrawals(site.store).restore(found.amis, by="me")
    return list(found.left)


def carry_out(site: Site) -> None:
    """Make every change that is due, as the workflows do."""
    workflow = changes_of(site)
    for change in PendingChanges(site.store).due():
        make = workflow.withdraw if change.what == WITHDRAW else workflow.restore
        make(change.job, change.region, change.at)


def states(site: Site, name: str) -> set[str]:
    return {row.state for row in site.store.all_amis() if name in (row.job, row.image)}


def messages(site: Site, topic: str) -> list[dict[str, Any]]:
    return [row.body for row in site.store.unannounced() if row.topic == topic]


def seen_by_a_stranger(
    site: Site,
    image: RawImage,
    usable: RawImage,
    monkeypatch: pytest.MonkeyPatch,
    tokens: stranger.Tokens,
) -> list[set[str]]:
    """Return the calls that reach each AMI of an image; `usable` is an image that is public."""
    elsewhere = {ORIGIN: FURTHER, FURTHER: ORIGIN}
    return [
        stranger.reaches(
            site.hands,
            row,
            elsewhere[row.region],
            site.row(usable, row.region).ami,
            monkeypatch,
            tokens,
        )
        for row in site.rows(image)
    ]


def test_other_account_sees_nothing_of_a_withdrawn_image_and_all_of_a_restored_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_type = TYPES[:1]
    image = site.publish(types=one_type)
    other = site.publish(types=one_type)
    tokens: stranger.Tokens = {}

    def seen(image: RawImage) -> list[set[str]]:
        return seen_by_a_stranger(site, image, other, monkeypatch, tokens)

    everything = [set(stranger.EVERYTHING)] * 2
    assert seen(image) == everything
    withdraw(site, image.name, replacement=other.name)
    assert states(site, image.name) == {rows.WITHDRAWING}
    carry_out(site)
    assert states(site, image.name) == {rows.WITHDRAWN}
    assert seen(image) == [set(), set()]
    assert seen(other) == everything
    assert PendingChanges(site.store).all() == []
    told = messages(site, "image.withdraw")
    assert len(told) == 2
    assert told[0]["extra"]["reason"] == "a bad kernel"
    assert told[0]["extra"]["replacement"] == other.name
    assert differences(site) == []
    assert forgotten(site) == []

    assert restore(site, image.name) == []
    carry_out(site)
    assert states(site, image.name) == {rows.PUBLIC}
    assert seen(image) == everything
    assert forgotten(site) == []
    assert len(messages(site, "image.restore")) == 2
    assert differences(site) == []


def forgotten(site: Site) -> list[str]:
    """Return where the lab's ledger and the record of what is public contradict each other."""
    things = leaks.things(site.account.live(site.settings.site))
    return leaks.forgotten(things, [asdict(row) for row in site.store.amis()])


def differences(site: Site) -> list[str]:
    results = verify.verify_regions(site.settings, site.store, site.clients, REGIONS)
    return [verify.text_of(each) for result in results for each in result.differences]


def test_restoration_brings_back_the_former_permissions(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    row = site.row(image)
    shared = {"Add": [{"UserId": STRANGER}]}
    site.ec2().modify_image_attribute(ImageId=row.ami, LaunchPermission=shared)
    site.ec2().modify_snapshot_attribute(
        SnapshotId=row.snapshot,
        Attribute="createVolumePermission",
        CreateVolumePermission=shared,
    )

    def held() -> tuple[Any, Any]:
        launch = site.ec2().describe_image_attribute(ImageId=row.ami, Attribute="launchPermission")[
            "LaunchPermissions"
        ]
        volume = site.ec2().describe_snapshot_attribute(
            SnapshotId=row.snapshot, Attribute="createVolumePermission"
        )["CreateVolumePermissions"]
        return launch, volume

    before = held()
    assert len(before[0]) == len(before[1]) == 2
    for _ in range(2):
        withdraw(site, row.ami)
        carry_out(site)
        assert held() == ([], [])
        restore(site, row.ami)
        carry_out(site)
        assert held() == before


@pytest.mark.parametrize("by", ["run", "person"])
def test_ami_that_was_withdrawn_while_it_was_private_is_restored_to_its_later_users(
    site: Site, by: str
) -> None:
    image = site.publish(regions=[ORIGIN], types=TYPES[:1])
    row = site.row(image)
    # A run had offered it, and ended before EC2 made it public.
    site.hide(row)
    site.store.write(sa.update(amis).values(public=False, state=rows.PRIVATE, published_at=None))
    withdraw(site, image.name)
    carry_out(site)
    restore(site, image.name)
    carry_out(site)
    assert states(site, image.name) == {rows.PRIVATE}
    assert not site.shown(row)["Public"]
    # Another run publishes it, or a person does.
    everybody = {"Add": [{"Group": "all"}]}
    site.ec2().modify_image_attribute(ImageId=row.ami, LaunchPermission=everybody)
    if by == "run":
        Recorder(site.store, image, 2, ORIGIN).published(ami_of(row))
    else:
        assert accepted(site, row.ami).state == rows.PUBLIC
    for _ in range(2):
        withdraw(site, image.name)
        carry_out(site)
        assert not site.shown(row)["Public"]
        restore(site, image.name)
        carry_out(site)
        assert states(site, image.name) == {rows.PUBLIC}
        assert site.shown(row)["Public"]


def test_ami_that_was_private_stays_so_when_its_withdrawal_is_taken_back_at_once(
    site: Site,
) -> None:
    image = site.publish(regions=[ORIGIN], types=TYPES[:1])
    row = site.row(image)
    site.hide(row)
    site.store.write(sa.update(amis).values(public=False, state=rows.PRIVATE, published_at=None))
    withdraw(site, image.name)
    # No worker has looked at its permissions yet.
    restore(site, image.name)
    carry_out(site)
    assert states(site, image.name) == {rows.PRIVATE}
    assert not site.shown(row)["Public"]
    assert messages(site, "image.restore") == []


def test_mark_is_set_before_the_permission_is_removed(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    row = site.row(image)
    withdraw(site, image.job)
    site.account.refuse(ORIGIN, DisableImage="UnauthorizedOperation")
    carry_out(site)
    assert tags.WITHDRAWN in tags.read(site.shown(row)["Tags"])
    assert site.shown(row)["Public"]
    (change,) = PendingChanges(site.store).all()
    assert "UnauthorizedOperation" in str(change.error)
    assert change.due > time.time() - 1
    assert any("UnauthorizedOperation" in text for text in problems(site.store))
    # It is tried again, and what it was is still known.
    site.account.refuse_nothing()
    site.store.write(_due())
    carry_out(site)
    assert states(site, image.job) == {rows.WITHDRAWN}
    restore(site, image.job)
    carry_out(site)
    assert site.shown(row)["Public"]
    assert tags.read(site.shown(row)["Tags"])[tags.WITHDRAWN].startswith("restored ")


def _due() -> sa.Update:
    """Make the next try of every change due now."""
    return sa.update(changes).values(due=0)


def test_ec2_that_cannot_disable_images_loses_the_permissions(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    site.account.refuse(ORIGIN, DisableImage="InvalidAction")
    withdraw(site, image.job)
    carry_out(site)
    shown = site.shown(site.row(image))
    assert (shown["Public"], shown["State"]) == (False, "available")
    assert not site.snapshot_is_public(ORIGIN, site.row(image).snapshot)
    assert states(site, image.job) == {rows.WITHDRAWN}


def test_region_that_is_away_neither_blocks_nor_is_forgotten(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    image = site.publish()
    Outages(site.store, site.settings.ec2.limits).begin(FURTHER, "it does not answer")
    withdraw(site, image.name)
    carry_out(site)
    by_region = {row.region: row.state for row in site.rows(image)}
    assert by_region == {ORIGIN: rows.WITHDRAWN, FURTHER: rows.WITHDRAWING}
    assert any(FURTHER in text and "withdraw" in text for text in problems(site.store))
    assert any("its withdrawal is not finished" in text for text in differences(site))
    # The worker does not queue it again before the region is back.
    site.store.write(_due())
    due = DueChanges(site.settings, site.store, site.queue)
    for _ in range(2):
        due.begin()
    assert PendingChanges(site.store).due() != []
    assert caplog.text.count(f"1 changes of AMIs wait, as {FURTHER} has been unavailable") == 1
    outages = Outages(site.store, site.settings.ec2.limits)
    (outage,) = outages.all()
    outages.end(outage)
    # A worker knows it within a second.
    time.sleep(1.1)
    for _ in range(2):
        due.begin()
    assert PendingChanges(site.store).due() == []
    assert caplog.text.count(f"no change of AMIs waits for {FURTHER} any more") == 1
    site.store.write(_due())
    carry_out(site)
    assert states(site, image.name) == {rows.WITHDRAWN}
    assert differences(site) == []


def test_restoration_replaces_a_withdrawal_that_is_not_finished(site: Site) -> None:
    image = site.publish()
    withdraw(site, image.name)
    old = PendingChanges(site.store).all()
    restore(site, image.name)
    # A worker that still has the old change in hand changes nothing.
    for change in old:
        changes_of(site).withdraw(change.job, change.region, change.at)
    carry_out(site)
    assert states(site, image.name) == {rows.PUBLIC}
    assert differences(site) == []


def test_change_waits_until_the_one_that_it_replaces_has_ended(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    withdraw(site, image.name)
    (old,) = PendingChanges(site.store).all()
    due = DueChanges(site.settings, site.store, site.queue)
    due.begin()
    assert PendingChanges(site.store).due() == []
    restore(site, image.name)
    (new,) = PendingChanges(site.store).all()
    # The queue has the withdrawal, which a worker may be carrying out.
    due.begin()
    assert PendingChanges(site.store).due() == [new]
    changes_of(site).withdraw(old.job, old.region, old.at)
    with site.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE workflow_status SET status = 'SUCCESS' WHERE name = 'fedimg.withdraw'"
        )
    due.begin()
    assert PendingChanges(site.store).due() == []


def test_end_of_a_change_that_was_replaced_records_and_announces_nothing(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    withdraw(site, image.name)
    (old,) = PendingChanges(site.store).all()
    its_rows = site.rows(image)
    restore(site, image.name)
    told = [("key", "image.withdraw", {"extra": {}})]
    withdrawals = Withdrawals(site.store)
    its_end = (old.what, old.job, old.region, old.at, {rows.WITHDRAWN: its_rows}, told)
    assert not withdrawals.done(*its_end)
    assert states(site, image.name) == {rows.RESTORING}
    assert messages(site, "image.withdraw") == []
    assert [change.what for change in PendingChanges(site.store).all()] == [RESTORE]


@pytest.mark.parametrize("snapshot", ["gone", "left"])
def test_withdrawal_ends_where_a_person_has_removed_the_amis(
    site: Site, snapshot: str, caplog: pytest.LogCaptureFixture
) -> None:
    image = site.publish()
    removed = [row for row in site.rows(image) if row.region == ORIGIN]
    for row in removed:
        site.ec2().deregister_image(ImageId=row.ami)
    if snapshot == "gone":
        site.ec2().delete_snapshot(SnapshotId=removed[0].snapshot)
    withdraw(site, image.name)
    carry_out(site)
    assert [change.error for change in PendingChanges(site.store).all()] == []
    assert states(site, image.name) == {rows.WITHDRAWN}
    assert all(row.ami in caplog.text for row in removed)
    if snapshot == "left":
        assert not site.snapshot_is_public(ORIGIN, removed[0].snapshot)
    # The comparison names them until a person accepts that they are gone.
    assert ["missing" in text for text in differences(site)] == [True, True]
    # Nobody can bring them back; the others are.
    restore(site, image.name)
    carry_out(site)
    assert [change.error for change in PendingChanges(site.store).all()] == []
    assert {(row.region, row.state) for row in site.rows(image)} == {
        (ORIGIN, rows.WITHDRAWN),
        (FURTHER, rows.PUBLIC),
    }


def test_restoration_brings_back_the_others_where_a_person_has_removed_an_ami(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    image = site.publish(regions=[ORIGIN])
    withdraw(site, image.name)
    carry_out(site)
    removed, other = site.rows(image)
    site.ec2().deregister_image(ImageId=removed.ami)
    restore(site, image.name)
    carry_out(site)
    assert PendingChanges(site.store).all() == []
    assert {row.ami: row.state for row in site.rows(image)} == {
        removed.ami: rows.WITHDRAWN,
        other.ami: rows.PUBLIC,
    }
    assert site.shown(other)["Public"]
    assert f"'fedimg accept {removed.ami}'" in caplog.text
    assert [row["extra"]["id"] for row in messages(site, "image.restore")] == [other.ami]
    assert accepted(site, removed.ami).state == rows.DELETED
    assert differences(site) == []


@pytest.mark.parametrize("withdrawn", [True, False])
def test_ami_of_another_snapshot_stays_withdrawn_and_holds_up_no_other(
    site: Site, withdrawn: bool, caplog: pytest.LogCaptureFixture
) -> None:
    image, another = site.publish(regions=[ORIGIN]), site.publish(regions=[ORIGIN])
    wrong, right = site.rows(image)
    snapshot = site.row(another).snapshot
    site.store.write(sa.update(amis).where(amis.c.ami == wrong.ami).values(snapshot=snapshot))
    withdraw(site, image.name)
    if withdrawn:
        carry_out(site)
    restore(site, image.name)
    for _ in range(2):
        carry_out(site)
    assert PendingChanges(site.store).all() == []
    assert {row.ami: row.state for row in site.rows(image)} == {
        wrong.ami: rows.WITHDRAWN,
        right.ami: rows.PUBLIC,
    }
    assert (site.shown(wrong)["Public"], site.shown(right)["Public"]) == (False, True)
    assert f"AMI {wrong.ami} is not made from the recorded snapshot" in caplog.text
    assert site.snapshot_is_public(ORIGIN, snapshot)


def test_no_source_publishes_the_bytes_of_a_withdrawn_image(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    twin = site.image()
    twin = type(twin)(
        twin.url, twin.architecture, twin.build, twin.source, twin.size, image.checksum
    )
    withdraw(site, image.job)
    # The job that published them does not count as their twin any more when it is cancelled.
    with site.store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE fedimg_jobs SET state = 'cancelled', step = 'cancelled'")
    assert site.queue.submit(twin) is None
    for on_purpose in (False, True):
        with pytest.raises(ImageWithdrawn, match=f"fedimg restore {image.job}"):
            site.queue.upload(Known(twin), on_purpose=on_purpose)
    assert site.queue.retry(image.job) is None
    assert site.queue.submit(site.image()) is not None
    restore(site, image.job)
    assert site.queue.retry(image.job) == 2


def test_job_that_runs_is_stopped_and_what_it_published_meanwhile_is_withdrawn(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    with site.store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE fedimg_jobs SET state = 'running', step = 'publish'")
    site.store.set_region(image.job, FURTHER, step="publish")
    found = targets.to_withdraw(site.store, image.job)
    assert found.regions == {image.job: set(REGIONS)}
    withdraw(site, image.job)
    workflow = changes_of(site)
    (late,) = (each for each in PendingChanges(site.store).all() if each.region == FURTHER)
    ended = threading.Event()

    def work() -> None:
        workflow.withdraw(late.job, late.region, late.at)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    # The run makes its last region public, then its clean-up ends it.
    row = site.row(image)
    registered = site.register(image, FURTHER)
    for ami in registered:
        site.store.record_ami(image, ami)
        site.ec2(FURTHER).modify_image_attribute(
            ImageId=ami.id, LaunchPermission={"Add": [{"Group": "all"}]}
        )
        site.store.publish_ami(ami)
    assert not ended.is_set()
    site.store.end(image.job, 1, "cancelled", None)
    thread.join(240)
    assert ended.is_set()
    assert {each.state for each in site.rows(image) if each.region == FURTHER} == {rows.WITHDRAWN}
    assert not any(
        site.shown(each)["Public"] for each in site.rows(image) if each.region == FURTHER
    )
    assert row.region == ORIGIN


def test_snapshot_goes_private_with_its_last_public_ami(site: Site) -> None:
    """An AMI of another job may be made from the same snapshot."""
    image, other = site.publish(regions=[ORIGIN]), site.publish(regions=[ORIGIN])
    snapshot = site.row(image).snapshot
    with site.store.engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE fedimg_amis SET snapshot = '{snapshot}' WHERE job = '{other.job}'"
        )
    withdraw(site, image.job)
    carry_out(site)
    assert site.snapshot_is_public(ORIGIN, snapshot)
    withdraw(site, other.job)
    carry_out(site)
    assert not site.snapshot_is_public(ORIGIN, snapshot)


def test_untested_amis_are_never_restored(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    withdraw(site, image.job)
    carry_out(site)
    with site.store.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM fedimg_tests")
    left = restore(site, image.job)
    assert len(left) == 2
    assert "no boot check" in left[0]
    carry_out(site)
    assert states(site, image.job) == {rows.WITHDRAWN}
    assert not site.shown(site.row(image))["Public"]


def test_restoration_ends_the_withdrawal_of_an_untested_ami_in_a_region_that_was_away(
    site: Site,
) -> None:
    image = site.publish()
    untested, tested = (row for row in site.rows(image) if row.region == FURTHER)
    recorder = Recorder(site.store, image, 1, ORIGIN)
    recorder.test_failed(ami_of(untested), [CheckResult("boots", CheckState.FAILED, 1.0)], "")
    outages = Outages(site.store, site.settings.ec2.limits)
    outages.begin(FURTHER, "it does not answer")
    withdraw(site, image.name)
    carry_out(site)
    assert site.shown(untested)["Public"]
    (left,) = restore(site, image.name)
    assert untested.ami in left
    (outage,) = outages.all()
    outages.end(outage)
    site.store.write(_due())
    carry_out(site)
    assert not site.shown(untested)["Public"]
    carry_out(site)
    assert {row.ami: row.state for row in site.rows(image) if row.region == FURTHER} == {
        untested.ami: rows.WITHDRAWN,
        tested.ami: rows.PUBLIC,
    }
    assert {row.state for row in site.rows(image) if row.region == ORIGIN} == {rows.PUBLIC}
    assert PendingChanges(site.store).all() == []
    assert differences(site) == []


def test_nothing_is_restored_while_the_site_is_held(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    withdraw(site, image.job)
    carry_out(site)
    Holds(site.store).begin("me", "a move")
    restore(site, image.job)
    carry_out(site)
    assert states(site, image.job) == {rows.RESTORING}
    (change,) = PendingChanges(site.store).all()
    assert (change.what, "publishing has been held" in str(change.error)) == (RESTORE, True)
    Holds(site.store).release("me")
    site.store.write(_due())
    carry_out(site)
    assert states(site, image.job) == {rows.PUBLIC}


def test_name_has_to_be_exact(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    assert targets.to_withdraw(site.store, image.name[:-1]).jobs == []
    for name in (image.name, image.job, site.row(image).ami):
        assert [row.job for row in targets.to_withdraw(site.store, name).jobs] == [image.job]


def accepted(site: Site, ami: str) -> accept.Found:
    (row,) = (row for row in site.store.all_amis() if row.ami == ami)
    found = accept.inspect(row, site.clients, site.store.job(row.job))
    Withdrawals(site.store).accept(
        row, found.state, "me", "by hand", published_at=found.published_at
    )
    return found


def test_change_by_hand_can_be_accepted(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    hidden, gone = (row for row in site.rows(image))
    site.hide(hidden)
    site.ec2().deregister_image(ImageId=gone.ami)
    assert len(differences(site)) == 2
    assert accepted(site, hidden.ami).state == rows.HIDDEN
    assert accepted(site, gone.ami).state == rows.DELETED
    # Its snapshot is still public, and no AMI of it is.
    assert ["snapshot public" in text for text in differences(site)] == [True]
    assert [row.ami for row in site.rows(image)] == [hidden.ami]


def test_accepted_public_ami_without_a_tag_of_its_publication_counts_from_now(site: Site) -> None:
    image = site.publish(regions=[ORIGIN], types=TYPES[:1])
    row = site.row(image)
    site.ec2().delete_tags(Resources=[row.ami], Tags=[{"Key": tags.PUBLISHED}])
    site.store.write(sa.update(amis).values(public=False, state=rows.PRIVATE, published_at=None))
    before = time.time()
    assert accepted(site, row.ami).state == rows.PUBLIC
    assert before <= (site.row(image).published_at or 0) <= time.time()


def test_untested_public_ami_is_not_accepted(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    row = site.row(image)
    withdraw(site, image.job)
    carry_out(site)
    site.ec2().enable_image(ImageId=row.ami)
    site.ec2().modify_image_attribute(ImageId=row.ami, LaunchPermission={"Add": [{"Group": "all"}]})
    with pytest.raises(accept.CannotAccept, match="fedimg restore"):
        accepted(site, row.ami)


@pytest.mark.parametrize(
    ("done", "known_by"), [("withdrawn", "record"), ("withdrawn", "tag"), ("hidden", "record")]
)
def test_clean_up_keeps_what_was_public_before_offers_were_recorded(
    site: Site, done: str, known_by: str
) -> None:
    """Former versions neither recorded an offer nor set the tag `fedimg:published`."""
    image = site.publish(regions=[ORIGIN], types=TYPES[:1])
    row = site.row(image)
    site.store.write(sa.delete(offered))
    site.ec2().delete_tags(Resources=[row.ami, row.snapshot], Tags=[{"Key": tags.PUBLISHED}])
    if done == "hidden":
        site.hide(row)
        accepted(site, row.ami)
    else:
        withdraw(site, image.job)
        carry_out(site)
    published = site.store.ever_public() if known_by == "record" else ()
    seen = survey.take(site.clients, site.settings.site, REGIONS, published=published)
    assert seen.left == []
    assert {item.id for item in seen.once_public} == {row.ami, row.snapshot}


def test_clean_up_keeps_an_ami_that_was_withdrawn_after_a_person_had_made_it_public(
    site: Site,
) -> None:
    image = site.publish(regions=[ORIGIN], types=TYPES[:1])
    row = site.row(image)
    site.store.write(sa.delete(offered))
    site.store.write(sa.update(amis).values(public=False, state=rows.PRIVATE, published_at=None))
    assert site.store.ever_public() == set()
    tagged = tags.published_at(tags.read(site.shown(row)["Tags"]))
    assert accepted(site, row.ami).state == rows.PUBLIC
    assert site.row(image).published_at == tagged
    withdraw(site, row.ami)
    carry_out(site)
    # Its state may become private again, so that the offer is recorded.
    site.store.write(sa.update(amis).values(state=rows.PRIVATE, published_at=None))
    assert site.store.ever_public() == {row.ami, row.snapshot}
