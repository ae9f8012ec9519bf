"""Private AMIs get another audience, are compared, withdrawn, restored and recovered, on the lab.

Follows fedimg/lifecycle/share.py, fedimg/lifecycle/audience_comparison.py,
fedimg/store/shares.py, fedimg/cli/share_command.py.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from typing import Any

import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError

from fedimg.aws.share import share_all
from fedimg.cli import share_command
from fedimg.images import AMI, RawImage
from fedimg.jobs.holds import Holds
from fedimg.jobs.recorder import Recorder
from fedimg.lifecycle import accept, repair, targets, verify
from fedimg.lifecycle.repair_workflow import RepairWorkflow
from fedimg.lifecycle.share import ShareWorkflow
from fedimg.lifecycle.withdraw_and_restore import WithdrawAndRestore
from fedimg.records import as_record
from fedimg.steps import PlainSteps
from fedimg.store import rows
from fedimg.store.changes import PendingChanges
from fedimg.store.publications import Publications
from fedimg.store.repairs import Repairs
from fedimg.store.rows import AMIRow
from fedimg.store.shares import Shares
from fedimg.store.tables import amis, changes, jobs
from fedimg.values.audience import Audience
from lab import leaks
from lab.ec2.server import EC2
from tests.hands import Hands
from tests.lifecycle.conftest import FURTHER, ORIGIN, REGIONS, TYPES, Run, Site
from tests.lifecycle.stranger import STRANGER

ONE, TWO = STRANGER, "111122223333"
ORGANIZATION = "arn:aws:organizations::123456789012:organization/o-exampleorg1"
UNIT = "arn:aws:organizations::123456789012:ou/o-exampleorg1/ou-exam-12345678"


def carry_out(site: Site) -> None:
    """Make every change, as a worker does, also those that follow others."""
    stopping = threading.Event()
    parts = (site.settings, site.store)
    shares = ShareWorkflow(*parts, site.clients, PlainSteps(), stopping)
    repairs = RepairWorkflow(*parts, site.clients, PlainSteps(), stopping)
    others = WithdrawAndRestore(*parts, site.queue, site.clients, PlainSteps(), stopping)
    make = {
        "share": shares.share,
        "repair": repairs.repair,
        "withdraw": others.withdraw,
        "restore": others.restore,
    }
    for _ in range(3):
        site.store.write(sa.update(changes).values(due=0))
        for change in PendingChanges(site.store).due():
            make[change.what](change.job, change.region, change.at)


def change(site: Site, image: RawImage, audience: Audience) -> None:
    """Record another audience for all AMIs of an image, as the command does."""
    found = targets.to_share(site.store, image.name)
    assert not found.left
    wanted = [(row, audience) for its in found.amis.values() for row in its]
    Shares(site.store).change(wanted, by="me")


def audience(site: Site, row: AMIRow) -> tuple[list[str], list[str]]:
    """Return by whom an AMI and its snapshot can be used, as EC2 lists them."""
    ec2 = site.ec2(row.region)
    launch = ec2.describe_image_attribute(ImageId=row.ami, Attribute="launchPermission")
    volumes = ec2.describe_snapshot_attribute(
        SnapshotId=row.snapshot, Attribute="createVolumePermission"
    )

    def names(permissions: list[dict[str, str]]) -> list[str]:
        return [name for each in permissions for name in each.values()]

    return names(launch["LaunchPermissions"]), names(volumes["CreateVolumePermissions"])


def differences(site: Site) -> list[str]:
    results = verify.verify_regions(site.settings, site.store, site.clients, REGIONS)
    return [f"{each.kind}: {each.text}" for result in results for each in result.differences]


def forgotten(site: Site) -> list[str]:
    things = leaks.things(site.account.live(site.settings.site))
    return leaks.forgotten(things, [asdict(row) for row in site.store.amis()])


def messages(site: Site, topic: str = "image.share") -> list[dict[str, Any]]:
    return [row.body for row in site.store.unannounced() if row.topic == topic]


def launches(hands: Hands, row: AMIRow, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, bool]:
    """Return whether the second account launches an AMI, and copies it."""
    with monkeypatch.context() as patch:
        patch.setenv("MOTO_ACCOUNT_ID", STRANGER)
        ec2 = hands.ec2(row.region)
        done = []
        for attempt in (
            lambda: ec2.run_instances(
                ImageId=row.ami, MinCount=1, MaxCount=1, InstanceType="t3.micro"
            ),
            lambda: ec2.copy_image(Name="mine", SourceImageId=row.ami, SourceRegion=row.region),
        ):
            try:
                made = attempt()
            except ClientError:
                done.append(False)
                continue
            done.append(True)
            if "Instances" in made:
                ids = [each["InstanceId"] for each in made["Instances"]]
                ec2.terminate_instances(InstanceIds=ids)
            else:
                copied = ec2.describe_images(ImageIds=[made["ImageId"]])["Images"]
                ec2.deregister_image(ImageId=copied[0]["ImageId"])
        launched, copied = done
        return launched, copied


def test_audience_is_changed_in_all_regions_and_announced(site: Site) -> None:
    image = site.publish(audience=Audience((ONE,)))
    assert {row.state for row in site.rows(image)} == {rows.SHARED}
    change(site, image, Audience((TWO,), (ORGANIZATION,), (UNIT,)))
    assert {row.state for row in site.rows(image)} == {rows.SHARING}
    carry_out(site)
    assert {row.shown_state for row in site.rows(image)} == {
        "shared with 1 account, 1 organization and 1 organizational unit"
    }
    for row in site.rows(image):
        assert audience(site, row) == ([TWO, ORGANIZATION, UNIT], [TWO])
    told = messages(site)
    # Two types in two regions: at first, and then.
    assert len(told) == 8
    assert {each["extra"]["organizations"] for each in told[-4:]} == {1}
    assert ONE not in json.dumps(told)
    assert ORGANIZATION not in json.dumps(told)
    assert messages(site, "image.publish") == []
    assert differences(site) == []
    assert forgotten(site) == []


def test_second_account_sees_nothing_before_all_after_and_nothing_once_it_is_withdrawn(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = site.publish(types=TYPES[:1], audience=Audience())
    row = site.row(image)
    assert launches(site.hands, row, monkeypatch) == (False, False)
    change(site, image, Audience((STRANGER,)))
    carry_out(site)
    assert launches(site.hands, row, monkeypatch) == (True, True)
    targets.withdraw(site.store, image.name, by="me", reason="a bad kernel")
    carry_out(site)
    assert {each.state for each in site.rows(image)} == {rows.WITHDRAWN}
    assert launches(site.hands, row, monkeypatch) == (False, False)
    assert differences(site) == []
    assert len(messages(site, "image.withdraw")) == 2
    # Meanwhile the audience can be changed: it gets it with the restoration.
    change(site, image, Audience((STRANGER, TWO)))
    carry_out(site)
    assert launches(site.hands, row, monkeypatch) == (False, False)
    targets.restore(site.store, image.name, by="me")
    carry_out(site)
    assert {each.state for each in site.rows(image)} == {rows.SHARED}
    assert audience(site, row) == ([TWO, STRANGER], [TWO, STRANGER])
    assert launches(site.hands, row, monkeypatch) == (True, True)
    assert len(messages(site, "image.restore")) == 2
    assert differences(site) == []
    assert forgotten(site) == []


def test_account_of_an_organization_launches_and_copies_nothing(
    site: Site, ec2: EC2, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = site.publish(types=TYPES[:1], audience=Audience((), (), (UNIT,)))
    row = site.row(image)
    assert launches(site.hands, row, monkeypatch) == (False, False)
    ec2.join(STRANGER, ORGANIZATION, UNIT)
    try:
        assert launches(site.hands, row, monkeypatch) == (True, False)
    finally:
        ec2.join(STRANGER)
    assert launches(site.hands, row, monkeypatch) == (False, False)


def test_verify_tells_who_is_missing_and_who_was_added_and_repairs_it(site: Site) -> None:
    image = site.publish(types=TYPES[:1], regions=[ORIGIN], audience=Audience((ONE,), (), (UNIT,)))
    row = site.row(image)
    by_hand = site.ec2()
    by_hand.modify_image_attribute(
        ImageId=row.ami,
        LaunchPermission={"Add": [{"UserId": TWO}, {"Group": "all"}], "Remove": [{"UserId": ONE}]},
    )
    by_hand.modify_snapshot_attribute(
        SnapshotId=row.snapshot,
        Attribute="createVolumePermission",
        CreateVolumePermission={"Remove": [{"UserId": ONE}]},
    )
    told = differences(site)
    assert sorted(told) == [
        "not shared: 1 account of its audience cannot use it",
        "not shared: 1 account of its audience cannot use it",
        "public: it is recorded as shared and is public",
        "shared with others: 1 account can use it beside its audience",
    ]

    def repaired(*named: str) -> list[str]:
        found = verify.verify_regions(site.settings, site.store, site.clients, REGIONS)
        each = [one for result in found for one in result.differences]
        plan = repair.plan(each, site.store.all_amis(), site.store.job, named)
        asked = repair.ask(site.store, plan.actions, "me")
        carry_out(site)
        return [action.what for action in asked]

    # A person may have removed an account on purpose; nobody is left who was added.
    assert sorted(repaired()) == [repair.HIDE_AMI, repair.SHARE_SNAPSHOT]
    assert audience(site, row) == ([UNIT], [ONE])
    assert repaired(row.ami) == [repair.SHARE_AMI]
    assert audience(site, row) == ([ONE, UNIT], [ONE])
    assert differences(site) == []
    assert Repairs(site.store).pending() == set()


def test_region_that_is_away_holds_up_no_other(site: Site) -> None:
    image = site.publish(types=TYPES[:1], audience=Audience((ONE,)))
    site.account.refuse(FURTHER, ModifyImageAttribute="UnauthorizedOperation")
    change(site, image, Audience((TWO,)))
    carry_out(site)
    assert audience(site, site.row(image, ORIGIN))[0] == [TWO]
    assert site.row(image, ORIGIN).state == rows.SHARED
    assert site.row(image, FURTHER).state == rows.SHARING
    (left,) = PendingChanges(site.store).all()
    assert left.region == FURTHER
    site.account.refuse_nothing()
    carry_out(site)
    assert audience(site, site.row(image, FURTHER)) == ([TWO], [TWO])
    assert PendingChanges(site.store).all() == []


def test_restoration_does_not_record_as_public_what_was_being_shared(site: Site) -> None:
    image = site.publish(types=TYPES[:1], regions=[ORIGIN], audience=Audience((ONE,)))
    row = site.row(image)
    # The worker was killed when EC2 had shared the AMI, and the database did not know yet.
    lost = {"state": rows.PRIVATE, "audience": None, "shared_at": None}
    site.store.write(sa.update(amis).where(amis.c.ami == row.ami).values(**lost))
    targets.withdraw(site.store, image.name, by="me", reason="a bad kernel")
    carry_out(site)
    assert site.row(image).state == rows.WITHDRAWN
    targets.restore(site.store, image.name, by="me")
    carry_out(site)
    assert site.row(image).state == rows.PRIVATE
    assert audience(site, row) == ([], [])


def test_hold_keeps_new_members_out_and_lets_others_go(site: Site) -> None:
    image = site.publish(types=TYPES[:1], regions=[ORIGIN], audience=Audience((ONE,)))
    Holds(site.store).begin("me", "a reason")
    change(site, image, Audience((TWO,)))
    carry_out(site)
    assert audience(site, site.row(image)) == ([], [])
    Holds(site.store).release("me")
    carry_out(site)
    assert audience(site, site.row(image)) == ([TWO], [TWO])


def test_ami_on_another_snapshot_is_shared_with_nobody_else(site: Site) -> None:
    image = site.publish(types=TYPES[:1], regions=[ORIGIN], audience=Audience((ONE,)))
    site.store.write(sa.text("UPDATE fedimg_tests SET status = 'failed'"))
    change(site, image, Audience((ONE, TWO)))
    carry_out(site)
    assert audience(site, site.row(image)) == ([ONE], [ONE])


def test_private_ami_is_in_no_catalogue(site: Site) -> None:
    image = site.publish(types=TYPES[:1], audience=Audience((ONE,)))
    assert list(Publications(site.store).jobs()) == []
    targets.withdraw(site.store, image.name, by="me", reason="a bad kernel")
    carry_out(site)
    assert list(Publications(site.store).jobs()) == []


def test_shared_ami_is_accepted_only_as_what_it_is(site: Site) -> None:
    image = site.publish(types=TYPES[:1], regions=[ORIGIN], audience=Audience((ONE,)))
    row = site.row(image)
    job = site.store.job(image.job)
    assert accept.inspect(row, site.clients, job).state == rows.SHARED
    site.ec2().modify_image_attribute(ImageId=row.ami, LaunchPermission={"Add": [{"Group": "all"}]})
    with pytest.raises(accept.CannotAccept, match="for its audience alone"):
        accept.inspect(row, site.clients, job)


def test_job_that_shares_stays_private_whatever_the_settings_say(site: Site) -> None:
    private = site.publish(types=TYPES[:1], audience=Audience((ONE,)))
    public = site.publish(types=TYPES[:1])
    shares = Shares(site.store)
    assert shares.of_job(private.job) == (False, Audience((ONE,)))
    assert shares.of_job(public.job) == (True, None)
    assert shares.of_job("build-0-none") == (None, None)
    # What is not shared yet is decided by the settings: encrypted AMIs tell nothing of plain ones.
    site.store.write(sa.update(amis).where(amis.c.job == private.job).values(encrypted=True))
    assert shares.of_job(private.job) == (None, Audience((ONE,)))


BOTH = pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)


@BOTH
def test_audience_of_later_runs_is_that_of_amis_in_reach(site: Site) -> None:
    image = site.publish(types=TYPES[:1], audience=Audience((ONE,)))
    # The last one by region is the origin's.
    last = site.row(image, max(REGIONS))
    before = {"audience": as_record(Audience((TWO,)))}
    shares = Shares(site.store)
    for state in (rows.DELETED, rows.DISABLED, rows.UNKNOWN, rows.WITHDRAWN):
        its = sa.update(amis).where(amis.c.ami == last.ami)
        site.store.write(its.values(state=state, **before))
        assert shares.of_job(image.job) == (False, Audience((ONE,)))
    site.store.write(sa.update(amis).values(state=rows.DISABLED))
    assert shares.of_job(image.job) == (False, Audience((TWO,)))
    empty = as_record(Audience())
    site.store.write(sa.update(amis).where(amis.c.ami == last.ami).values(audience=empty))
    assert shares.of_job(image.job) == (False, Audience((ONE,)))
    site.store.write(sa.update(amis).where(amis.c.ami == last.ami).values(**before))
    site.store.write(sa.update(amis).values(state=rows.DELETED))
    assert shares.of_job(image.job) == (False, None)
    site.store.write(sa.update(amis).values(state=rows.WITHDRAWN))
    assert shares.of_job(image.job)[1] == Audience((TWO,))


@BOTH
def test_run_that_begins_while_a_person_is_asked_keeps_the_audience_as_it_is(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = site.publish(types=TYPES[:1], regions=[ORIGIN], audience=Audience((ONE,)))
    wanted = Audience((TWO,))

    def begins() -> None:
        queued = {"state": "queued", "run": 2}
        site.store.write(sa.update(jobs).where(jobs.c.job == image.job).values(**queued))
        assert site.store.begin(image.job, 2)

    begins()
    found, changed = targets.share(site.store, image.name, wanted, Audience(), by="me")
    assert changed == []
    assert "repeat the command when it has ended" in found.left[0]
    site.store.write(sa.update(jobs).values(state="incomplete", step="end"))
    if site.store.shared:
        return

    def answers(*_: object, **__: object) -> bool:
        begins()
        return True

    monkeypatch.setattr(share_command, "confirmed", answers)
    said = run("share", image.name, "--add-account", TWO)
    assert said.exit_code == 5, said.output
    assert "is running: repeat the command" in " ".join(said.output.split())
    assert site.row(image).shared_with == Audience((ONE,))
    assert site.row(image).state == rows.SHARED


@BOTH
def test_run_begins_after_a_change_of_the_audience_that_is_being_recorded(site: Site) -> None:
    image = site.publish(types=TYPES[:1], regions=[ORIGIN], audience=Audience((ONE,)))
    queued = {"state": "queued", "run": 2}
    site.store.write(sa.update(jobs).where(jobs.c.job == image.job).values(**queued))
    seen: list[Audience | None] = []

    def begin() -> None:
        assert site.store.begin(image.job, 2)
        seen.append(Shares(site.store).of_job(image.job)[1])

    run = threading.Thread(target=begin)
    shares = Shares(site.store)
    with shares.locked([image.job]) as connection:
        run.start()
        run.join(1)
        shares.change([(site.row(image), Audience((TWO,)))], by="me", connection=connection)
    run.join(240)
    assert seen == [Audience((TWO,))]


@BOTH
def test_addition_takes_along_amis_whose_audience_is_being_changed(site: Site) -> None:
    image = site.publish(types=TYPES[:1], audience=Audience((ONE,)))
    change(site, image, Audience((TWO,)))
    (found,) = Shares(site.store).in_reach(image.job, ORIGIN)
    assert (found.state, found.shared_with) == (rows.SHARING, Audience((TWO,)))
    targets.withdraw(site.store, image.name, by="me", reason="a bad kernel")
    assert Shares(site.store).in_reach(image.job, ORIGIN) == []


@BOTH
def test_verify_names_what_a_killed_run_shared_and_did_not_record(site: Site) -> None:
    image = site.publish(types=TYPES[:1], regions=[ORIGIN], audience=Audience((ONE,), (), (UNIT,)))
    row = site.row(image)
    lost = {"state": rows.PRIVATE, "audience": None, "shared_at": None}
    site.store.write(sa.update(amis).where(amis.c.ami == row.ami).values(**lost))
    who = "can use it although it is recorded as private: a run that did not end shared it"
    assert sorted(differences(site)) == [
        f"shared with others: 1 account and 1 organizational unit {who}",
        f"shared with others: 1 account {who}",
    ]
    # While a run of the job is sharing it, nothing is wrong.
    site.store.write(sa.update(jobs).values(state="running"))
    assert differences(site) == []
    site.store.write(sa.update(jobs).values(state="incomplete"))
    (found,) = verify.verify_regions(site.settings, site.store, site.clients, [ORIGIN])
    plan = repair.plan(found.differences, site.store.all_amis(), site.store.job, ())
    repair.ask(site.store, plan.actions, "me")
    carry_out(site)
    assert audience(site, row) == ([], [])
    assert differences(site) == []


def test_next_run_takes_away_what_a_killed_run_shared_with_a_larger_audience(site: Site) -> None:
    larger = Audience((ONE, TWO), (), (UNIT,))
    image = site.publish(types=TYPES[:1], regions=[ORIGIN], audience=larger)
    row = site.row(image)
    lost = {"state": rows.PRIVATE, "audience": None, "shared_at": None}
    site.store.write(sa.update(amis).where(amis.c.ami == row.ami).values(**lost))
    share_all(
        site.clients.ec2(ORIGIN),
        site.waiter,
        row.snapshot,
        [AMI(row.ami, row.name, row.region, row.type, row.snapshot)],
        Audience((ONE,)),
        Recorder(site.store, image, 2, ORIGIN),
        {},
    )
    assert audience(site, row) == ([ONE], [ONE])
    assert site.row(image).shared_with == Audience((ONE,))
    assert differences(site) == []


def test_command_shows_and_changes_the_audience(site: Site, run: Run) -> None:
    image = site.publish(types=TYPES[:1], audience=Audience((ONE,)))
    shown = run("share", image.name, "--json")
    assert shown.exit_code == 0, shown.output
    assert {each["audience"]["accounts"][0] for each in json.loads(shown.stdout)} == {ONE}
    asked = run("share", image.name, "--add-account", TWO)
    assert asked.exit_code == 5
    assert "shared with 1 account; to be shared with 2 accounts" in asked.stderr
    assert PendingChanges(site.store).all() == []
    done = run("share", image.job, "--add-account", TWO, "--remove-account", ONE, "--yes", "--json")
    assert done.exit_code == 0, done.stderr
    assert {row["state"] for row in json.loads(done.stdout)} == {rows.SHARING}
    assert "cannot be recalled" in done.stderr
    assert [each.what for each in PendingChanges(site.store).all()] == ["share"] * 2
    assert "the change of its audience is not finished" in run("status").stderr
    carry_out(site)
    for row in site.rows(image):
        assert audience(site, row) == ([TWO], [TWO])
    assert run("verify").exit_code == 0
    # It is no leftover, nor private by anybody's hand.
    swept = run("cleanup", "--dry-run", "--json")
    assert swept.exit_code == 0, swept.stderr
    assert "kept:" not in swept.stderr
    assert not {row.ami for row in site.rows(image)} & set(swept.stdout.split('"'))


def test_command_refuses_what_ec2_would_not_take(run: Run, site: Site) -> None:
    image = site.publish(types=TYPES[:1], regions=[ORIGIN], audience=Audience((ONE,)))
    public = site.publish(types=TYPES[:1], regions=[ORIGIN])
    for arguments, words in (
        ((image.name, "--add-account", "12"), "12 digits"),
        ((image.name, "--add-organization", UNIT), "is not the ARN of an organization"),
        ((image.name, "--remove-account", TWO), "is not in the audience"),
        ((public.name, "--add-account", TWO), "is shared with an audience"),
        (("no-such-image", "--add-account", TWO), "has exactly the name"),
    ):
        said = run("share", *arguments)
        assert said.exit_code != 0
        assert words in " ".join(said.output.split())
