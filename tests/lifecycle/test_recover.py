"""A lost database is rebuilt from EC2's tags: `fedimg store recover`, against the lab's EC2.

Follows fedimg/lifecycle/recover.py, fedimg/lifecycle/recovery_search.py,
fedimg/store/recovered.py and fedimg/cli/recover_command.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fedimg.aws import survey, tags
from fedimg.aws.tags import Labels
from fedimg.cli import lifecycle_output
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI, AMIType, Disk, RawImage, Virtualization
from fedimg.jobs.recorder import Recorder
from fedimg.lifecycle import accept, recover, repair, targets, verify
from fedimg.lifecycle.problems import problems
from fedimg.lifecycle.withdraw_and_restore import WithdrawAndRestore
from fedimg.steps import PlainSteps
from fedimg.store import rows, tables
from fedimg.store.changes import WITHDRAW, PendingChanges
from fedimg.store.recovered import NO_RUN
from fedimg.store.rows import AMIRow
from fedimg.store.withdrawals import Withdrawals
from fedimg.values.audience import Audience
from tests.lifecycle.conftest import DISK, FURTHER, ORIGIN, REGIONS, Run, Site
from tests.lifecycle.lost import lose, recovered


def withdraw(site: Site, name: str) -> None:
    found = targets.to_withdraw(site.store, name)
    Withdrawals(site.store).withdraw(
        found.amis, found.regions, by="me", reason="bad", replacement=None
    )


def carry_out(site: Site, regions: tuple[str, ...] = REGIONS) -> None:
    workflow = WithdrawAndRestore(
        site.settings, site.store, site.queue, site.clients, PlainSteps(), threading.Event()
    )
    for change in PendingChanges(site.store).due():
        if change.region in regions:
            make = workflow.withdraw if change.what == WITHDRAW else workflow.restore
            make(change.job, change.region, change.at)


def differences(site: Site) -> list[str]:
    results = verify.verify_regions(site.settings, site.store, site.clients, REGIONS)
    return [verify.text_of(each) for result in results for each in result.differences]


def record(site: Site) -> dict[str, Any]:
    """Return the record without what a lost database takes along."""
    changing = {"published_at": None, "verified_at": None, "difference": None}
    with site.store.engine.connect() as connection:
        tests = connection.execute(
            sa.select(tables.tests.c.job, tables.tests.c.region, tables.tests.c.ami)
        ).all()
    return {
        "amis": [replace(row, **changing) for row in site.rows()],
        "jobs": [(row.job, row.image, row.state, row.error) for row in site.store.jobs()],
        "disks": [site.store.disk(row.job) for row in site.store.jobs()],
        "tests": sorted(map(tuple, tests)),
        "ever public": site.store.ever_public(),
    }


def unfinished(site: Site, image: RawImage | None = None) -> tuple[RawImage, list[AMI]]:
    """Make the private AMIs of a job whose run was interrupted, in the origin."""
    image = image or site.image()
    return image, site.register(image, ORIGIN)


def test_recovered_record_equals_the_lost_one(site: Site) -> None:
    for _ in range(2):
        site.publish()
    before = record(site)
    published = {row.ami: row.published_at for row in site.rows()}
    lose(site)
    assert record(site)["amis"] == []
    found = recovered(site)
    assert (len(found.found), found.left, found.errors) == (8, [], {})
    assert record(site) == before
    assert {row.state for row in site.rows()} == {rows.PUBLIC}
    # The tag has whole seconds, and was set before the permission.
    assert all(abs((row.published_at or 0) - (published[row.ami] or 0)) < 60 for row in site.rows())
    assert differences(site) == []
    assert problems(site.store) == []


def test_private_amis_and_their_audience_are_found_again(site: Site) -> None:
    organization = "arn:aws:organizations::123456789012:organization/o-exampleorg1"
    site.publish(audience=Audience(("111122223333",), (organization,)))
    site.publish(audience=Audience())
    changing = {"shared_at": None}
    before = [replace(row, **changing) for row in record(site)["amis"]]
    lose(site)
    recovered(site)
    found = record(site)
    assert [replace(row, **changing) for row in found["amis"]] == before
    assert {row.state for row in site.rows()} == {rows.SHARED}
    assert [state for _, _, state, _ in found["jobs"]] == ["complete"] * 2
    assert differences(site) == []
    assert problems(site.store) == []


def test_recovery_may_be_repeated(site: Site) -> None:
    site.publish()
    unfinished(site)
    lose(site)
    recovered(site)
    before = record(site)
    recovered(site)
    assert record(site) == before


def test_replay_publishes_nothing_twice(site: Site) -> None:
    """Not the build itself, nor the same bytes from another source."""
    image = site.publish()
    compose = site.image()
    twin = replace(compose, source="compose-43", checksum=image.checksum)
    half, _ = unfinished(site)
    lose(site)
    recovered(site)
    assert [site.queue.submit(each) for each in (image, twin, half)] == [None, None, None]
    assert site.queue.submit(compose) == compose.job


def test_announcements_are_not_repeated(site: Site) -> None:
    image = site.publish()
    lose(site)
    recovered(site)
    recorder = Recorder(site.store, image, 1, ORIGIN)
    originals = [repair.ami_of(row) for row in site.rows(image) if row.region == ORIGIN]
    for row in site.rows(image):
        recorder.published(repair.ami_of(row))
        if row.region == FURTHER:
            recorder.copied(repair.ami_of(row), originals[0])
        else:
            recorder.registered(repair.ami_of(row))
    assert site.store.unannounced() == []


def test_private_amis_are_unknown_and_nothing_publishes_or_removes_them(site: Site) -> None:
    image, registered = unfinished(site)
    lose(site)
    recovered(site)
    assert {row.state for row in site.rows(image)} == {rows.UNKNOWN}
    (job,) = site.store.jobs()
    assert (job.state, job.run) == ("failed", NO_RUN)
    assert f"AMI {registered[0].id}" in str(job.error) or registered[1].id in str(job.error)
    assert any("2 AMIs were private when" in text for text in problems(site.store))
    # The comparison and its repair leave them alone, named or not.
    found = verify.verify_regions(site.settings, site.store, site.clients, REGIONS)
    all_differences = [each for result in found for each in result.differences]
    plan = repair.plan(
        all_differences, site.store.all_amis(), site.store.job, [ami.id for ami in registered]
    )
    assert (all_differences, plan.actions) == ([], [])
    # A retry finds the AMIs by their names, and stops there.
    assert site.queue.retry(image.job) == NO_RUN + 1
    recorder = Recorder(site.store, image, 1, ORIGIN)
    with pytest.raises(EC2ServiceException, match="fedimg cleanup --remove"):
        recorder.registered(registered[0])
    with pytest.raises(EC2ServiceException, match="fedimg cleanup --remove"):
        recorder.copied(registered[0], registered[0])
    with pytest.raises(EC2ServiceException, match="recorded as unknown"):
        recorder.publishing(ORIGIN, [registered[0].snapshot, registered[0].id])
    # Clean-ups, of the job and of the site, count them as public once.
    for job_name in (image.job, None):
        left = survey.take(
            site.clients,
            site.settings.site,
            REGIONS,
            job=job_name,
            recorded=survey.recorded(site.store.amis()),
            published=site.store.ever_public(job_name),
        )
        assert left.left == []
        assert {item.id for item in left.once_public} == {
            *(ami.id for ami in registered),
            registered[0].snapshot,
        }


def test_person_decides_about_unknown_amis(site: Site, run: Run) -> None:
    (kept, kept_amis), (taken, _) = unfinished(site), unfinished(site)
    removed, removed_amis = unfinished(site)
    lose(site)
    recovered(site)
    for ami in kept_amis:
        assert run("accept", ami.id, "--yes").exit_code == 0
    assert {row.state for row in site.rows(kept)} == {rows.HIDDEN}
    withdraw(site, taken.job)
    carry_out(site)
    assert {row.state for row in site.rows(taken)} == {rows.WITHDRAWN}
    ids = [*(ami.id for ami in removed_amis), removed_amis[0].snapshot]
    result = run("cleanup", *(f"--remove={id}" for id in ids))
    assert result.exit_code == 0, result.output
    assert site.rows(removed) == []
    assert not site.store.ever_public(removed.job)
    assert not any("private when the database" in text for text in problems(site.store))
    # Then the job can run again.
    assert site.queue.retry(removed.job) == NO_RUN + 1


def test_ami_that_a_person_made_public_is_accepted_if_it_was_tested(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    row = site.row(image)
    site.hide(row)
    lose(site)
    recovered(site)
    (unknown,) = (each for each in site.rows(image) if each.ami == row.ami)
    assert unknown.state == rows.UNKNOWN
    # Its job has made it public before: nothing is left for it to do.
    (job,) = site.store.jobs()
    assert (job.state, job.error) == ("complete", None)
    site.ec2().modify_image_attribute(ImageId=row.ami, LaunchPermission={"Add": [{"Group": "all"}]})
    assert [f"recorded as {rows.UNKNOWN} and is public" in each for each in differences(site)] == [
        True
    ]
    found = accept.inspect(unknown, site.clients, site.store.job(unknown.job))
    assert found.state == rows.PUBLIC
    # Until then nobody hides it who did not name it.
    results = verify.verify_regions(site.settings, site.store, site.clients, [ORIGIN])
    every = [each for result in results for each in result.differences]
    plan = repair.plan(every, site.store.all_amis(), site.store.job)
    assert plan.actions == []
    assert any(f"'fedimg accept {row.ami}'" in text for text in plan.left)
    named = repair.plan(every, site.store.all_amis(), site.store.job, [row.ami])
    assert [each.what for each in named.actions] == ["hide AMI"]


def test_unknown_ami_that_is_gone_is_no_difference(site: Site) -> None:
    image, registered = unfinished(site)
    lose(site)
    recovered(site)
    site.ec2().deregister_image(ImageId=registered[0].id)
    assert differences(site) == []
    assert {row.state for row in site.rows(image)} == {rows.UNKNOWN}


def test_withdrawn_image_stays_withdrawn_and_can_be_restored(site: Site) -> None:
    image, other = site.publish(), site.publish()
    twin = replace(site.image(), checksum=image.checksum)
    withdraw(site, image.name)
    carry_out(site)
    lose(site)
    recovered(site)
    assert {row.state for row in site.rows(image)} == {rows.WITHDRAWN}
    assert {row.state for row in site.rows(other)} == {rows.PUBLIC}
    assert PendingChanges(site.store).all() == []
    (known,) = Withdrawals(site.store).all()
    assert (known.job, "lost with it" in known.reason) == (image.job, True)
    assert site.queue.submit(twin) is None
    assert differences(site) == []

    found = targets.to_restore(site.store, image.name)
    assert found.left == []
    Withdrawals(site.store).restore(found.amis, by="me")
    carry_out(site)
    assert {row.state for row in site.rows(image)} == {rows.PUBLIC}
    assert differences(site) == []
    # The latest word on EC2 is the restoration.
    lose(site)
    recovered(site)
    assert Withdrawals(site.store).all() == []
    assert {row.state for row in site.rows()} == {rows.PUBLIC}


def test_audience_of_withdrawn_amis_is_lost_and_set_again(site: Site) -> None:
    audience = Audience(("111122223333",))
    image = site.publish(regions=[ORIGIN], audience=audience)
    withdraw(site, image.name)
    carry_out(site)
    lose(site)
    recovered(site)
    assert (site.row(image).state, site.row(image).shared_with) == (rows.WITHDRAWN, Audience())
    targets.share(site.store, image.name, audience, Audience(), by="me")
    Withdrawals(site.store).restore(targets.to_restore(site.store, image.name).amis, by="me")
    carry_out(site)
    assert (site.row(image).state, site.row(image).shared_with) == (rows.SHARED, audience)
    assert differences(site) == []


def test_withdrawal_that_had_not_reached_all_regions_is_finished(site: Site) -> None:
    image = site.publish()
    withdraw(site, image.name)
    carry_out(site, (ORIGIN,))
    lose(site)
    # The region that was away is away still.
    recovered(site, (ORIGIN,))
    assert {row.state for row in site.rows(image)} == {rows.WITHDRAWN}
    recovered(site)
    by_region = {row.region: row.state for row in site.rows(image)}
    assert by_region == {ORIGIN: rows.WITHDRAWN, FURTHER: rows.WITHDRAWING}
    carry_out(site)
    assert {row.state for row in site.rows(image)} == {rows.WITHDRAWN}
    assert differences(site) == []


def test_withdrawal_after_the_backup_is_found(site: Site) -> None:
    """A restored backup knows the image as public."""
    image = site.publish()
    with site.store.engine.connect() as connection:
        backup = {
            table: [dict(row) for row in connection.execute(sa.select(table)).mappings()]
            for table in tables.metadata.sorted_tables
        }
    withdraw(site, image.name)
    carry_out(site)
    lose(site)
    with site.store.engine.begin() as connection:
        for table, lines in backup.items():
            if lines:
                connection.execute(sa.insert(table), lines)
    assert {row.state for row in site.rows(image)} == {rows.PUBLIC}
    recovered(site)
    assert {row.state for row in site.rows(image)} == {rows.WITHDRAWN}
    assert Withdrawals(site.store).of(image.job) is not None
    assert differences(site) == []


def test_job_lacks_a_region_where_the_site_published_before(site: Site) -> None:
    first = site.publish()
    second = site.publish(regions=[ORIGIN])
    lose(site)
    recovered(site)
    jobs = {row.job: row for row in site.store.jobs()}
    assert jobs[first.job].state == "complete"
    assert jobs[second.job].state == "incomplete"
    assert f"{FURTHER}: no AMI of the job was found" in str(jobs[second.job].error)
    assert site.queue.retry(first.job) is None
    assert site.queue.retry(second.job) == NO_RUN + 1


def test_jobs_that_have_a_record_keep_it(site: Site) -> None:
    ended, live = site.publish(), site.image()
    assert site.queue.submit(live)
    site.store.begin(live.job, 1)
    registered = site.register(live, ORIGIN)
    # An AMI of the ended job is not in the restored backup.
    lost = site.row(ended)
    with site.store.engine.begin() as connection:
        connection.execute(sa.delete(tables.amis).where(tables.amis.c.ami == lost.ami))
    before = site.store.job(ended.job)
    recovered(site)
    assert site.store.job(ended.job) == before
    assert replace(site.row(ended), published_at=0) == replace(lost, published_at=0)
    assert not {ami.id for ami in registered} & {row.ami for row in site.rows()}


def test_facts_missing_from_former_versions_tags_are_read_from_the_description(site: Site) -> None:
    image = site.publish()
    long = replace(
        site.image(), url=f"https://koji.example.org/{'x' * 250}/Fedora-Cloud-Base-43-0.raw.xz"
    )
    (cut, *_) = site.register(long, ORIGIN)
    for region in REGIONS:
        ids = [each for row in site.rows(image) if row.region == region for each in (row.ami,)]
        keys = (tags.URL, tags.BUILD, tags.CHECKSUM, tags.SIZE, tags.DISK, tags.TESTED)
        site.ec2(region).delete_tags(Resources=ids, Tags=[{"Key": key} for key in keys])
    before = {row.ami: row for row in site.rows(image)}
    lose(site)
    found = recovered(site)
    job = site.store.job(image.job)
    assert job is not None
    assert job.image == replace(image, size=None)
    row = site.row(image)
    assert (row.checksum, row.disk_sha256) == (image.checksum, None)
    assert (row.source, row.build) == (before[row.ami].source, before[row.ami].build)
    assert job.tests == []
    # This URL is in no tag, and longer than a description.
    unknown = site.store.job(long.job)
    assert unknown is not None
    assert unknown.image.url.startswith(f"https://{recover.UNKNOWN_HOST}/")
    assert site.queue.submit(long) is None
    notes = lifecycle_output.recovery_notes(recover.jobs(found, recover.Recorded(), list(REGIONS)))
    assert any("4 public AMIs have no tag of a passed boot check" in note for note in notes)
    assert cut.id in {each.ami for each in site.rows(long)}


@pytest.mark.parametrize("key", [tags.JOB, tags.IMAGE])
def test_ami_without_its_identity_is_named_and_not_recorded(site: Site, key: str) -> None:
    row = site.row(site.publish(regions=[ORIGIN]))
    site.ec2().delete_tags(Resources=[row.ami], Tags=[{"Key": key}])
    lose(site)
    found = recovered(site)
    assert [row.ami in text for text in found.left] == [True]
    assert row.ami not in {each.ami for each in site.rows()}


def test_tags_that_a_person_changed_do_not_stop_the_recovery(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    ids = [each.ami for each in site.rows(image)]
    wrong = {
        tags.URL: "ftp://somewhere/else?x=1",
        tags.CHECKSUM: "sha256:none",
        tags.SIZE: "many",
        tags.BUILD: "no build",
        tags.DISK: "sha256",
        tags.PUBLISHED: "yesterday",
        tags.WITHDRAWN: "maybe",
    }
    site.ec2().create_tags(Resources=ids, Tags=tags.as_tags(wrong))
    lose(site)
    assert recovered(site).left == []
    assert {row.state for row in site.rows(image)} == {rows.PUBLIC}
    (job,) = site.store.jobs()
    assert job.job == image.job


def test_other_sites_are_left_alone(site: Site) -> None:
    image = site.image()
    row = site.row(site.publish(regions=[ORIGIN]))
    foreign = Labels.of("another", image).tags("ami")
    site.ec2().create_tags(Resources=[row.ami], Tags=foreign)
    lose(site)
    recovered(site)
    assert row.ami not in {each.ami for each in site.rows()}


def test_command_prints_what_it_found_and_a_dry_run_records_nothing(site: Site, run: Run) -> None:
    image = site.publish()
    unfinished(site)
    lose(site)
    result = run("store", "recover", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "found 2 jobs (1 complete, 1 failed) with 6 AMIs that were not recorded" in result.output
    assert "2 AMIs are private, and nothing publishes or removes them" in result.output
    assert site.store.jobs() == []
    result = run("store", "recover", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert {each["job"]: each["state"] for each in told["jobs"]}[image.job] == "complete"
    assert len(told["amis"]) == 6
    assert told["not_searched"] == {}
    assert len(site.rows()) == 6
    assert "all 6 AMIs" in run("store", "recover").output
    assert run("amis", "--state", "unknown").output.count("\n") == 3
    assert run("amis", "--state", "unkown").exit_code == 2


def test_region_that_is_away_is_named_and_filled_in_later(site: Site, run: Run) -> None:
    image = site.publish()
    lose(site)
    site.account.refuse(FURTHER, DescribeImages="UnauthorizedOperation")
    result = run("store", "recover")
    assert result.exit_code == 1
    assert f"region {FURTHER} was not searched" in result.output
    assert {row.region for row in site.rows(image)} == {ORIGIN}
    (job,) = site.store.jobs()
    assert job.state == "complete"
    site.account.refuse_nothing()
    assert run("store", "recover").exit_code == 0
    assert {row.region for row in site.rows(image)} == set(REGIONS)
    assert differences(site) == []


def test_kept_disk_is_that_of_the_tags(site: Site) -> None:
    image = site.publish(regions=[ORIGIN])
    lose(site)
    recovered(site)
    assert site.store.disk(image.job) == DISK
    assert isinstance(site.store.disk(image.job), Disk)


def test_types_of_amis_are_kept(site: Site) -> None:
    types = [AMIType(Virtualization.HVM, "standard")]
    image = site.publish(regions=[ORIGIN], types=types)
    lose(site)
    recovered(site)
    found: list[AMIRow] = site.rows(image)
    assert [repair.ami_of(row).type for row in found] == types


#: `fedimg store recover` that dies in the middle of its second job.
DYING = """
import os, signal, sys

from fedimg.cli.commands import app
from fedimg.store.recovered import Recovered

add, added = Recovered._add, []


def dying(self, connection, table, values):
    add(self, connection, table, values)
    added.append(table.name)
    if added.count("fedimg_amis") == 2:
        os.kill(os.getpid(), signal.SIGKILL)


Recovered._add = dying
app()
"""


@pytest.mark.process
@pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
def test_recovery_goes_on_after_a_kill(site: Site, tmp_path: Path) -> None:
    for _ in range(3):
        site.publish(regions=[ORIGIN])
    before = record(site)
    lose(site)
    database = site.store.queue_url if site.store.shared else ""
    config = tmp_path / "killed.toml"
    config.write_text(
        f'site = "{site.settings.site}"\nstate_directory = "{site.store.directory}"\n'
        f'database = "{database}"\n[ec2]\norigin = "{ORIGIN}"\nregions = ["{ORIGIN}"]\n'
    )
    command = [sys.executable, "-c", DYING, "--config", str(config), "store", "recover"]
    killed = subprocess.run(command, env={**os.environ, "HOME": str(tmp_path)}, check=False)
    assert killed.returncode == -9
    # The first job is whole, the second is not there.
    assert len(site.store.jobs()) == 1
    assert len(site.rows()) == 2
    recovered(site)
    assert record(site) == before
