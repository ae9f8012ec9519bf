"""Jobs are retried, cancelled, and added to a region.

Follows fedimg/store/added_regions.py.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fedimg.images import AMI, AMIType
from fedimg.jobs.queue import JobQueue
from fedimg.store.added_regions import AddedRegions
from fedimg.store.store import Store
from tests.cli.conftest import X86, Run, finish, record_amis


@pytest.mark.parametrize("state", ["failed", "incomplete", "cancelled"])
def test_ended_job_is_retried(run: Run, store: Store, x86_job: str, state: str) -> None:
    finish(store, x86_job, state)
    result = run("retry", x86_job, "--json")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (0, "queued")
    row = store.job(x86_job)
    assert row is not None
    assert row.run == 2


def test_active_job_is_not_retried(run: Run, x86_job: str) -> None:
    result = run("retry", x86_job)
    assert (result.exit_code, result.stdout) == (5, "")
    assert "queued" in result.stderr


def test_complete_job_has_nothing_to_retry(run: Run, store: Store, x86_job: str) -> None:
    finish(store, x86_job, "complete")
    result = run("retry", x86_job)
    assert result.exit_code == 0
    assert "nothing is left to do" in result.stderr


def publish_amis(store: Store, region: str) -> None:
    record_amis(store, X86, region, "hvm-gp2")
    for row in store.amis():
        if row.region == region:
            kind = AMIType.parse("hvm-gp2")
            store.publish_ami(AMI(row.ami, row.name, region, kind, row.snapshot))


@pytest.mark.usefixtures("aws")
def test_complete_job_is_added_to_a_region_once(run: Run, store: Store, x86_job: str) -> None:
    def answer() -> tuple[int, str]:
        result = run("retry", x86_job, "--region", "eu-west-1")
        return result.exit_code, result.stderr

    finish(store, x86_job, "incomplete")
    publish_amis(store, "us-east-1")
    assert answer()[0] == 5
    assert "comes first" in answer()[1]
    finish(store, x86_job, "complete")
    assert answer()[0] == 0
    assert AddedRegions(store).of(x86_job, 2) == ["eu-west-1"]
    assert answer()[0] == 5
    assert "it is queued" in answer()[1]
    finish(store, x86_job, "complete")
    publish_amis(store, "eu-west-1")
    assert answer()[0] == 5
    assert "is public in eu-west-1" in answer()[1]


def test_region_is_added_where_the_site_publishes_and_the_origin_has_the_image(
    run: Run, store: Store, x86_job: str
) -> None:
    finish(store, x86_job, "complete")
    result = run("retry", x86_job, "--region", "eu-west-1")
    assert (result.exit_code, "no public AMI in us-east-1" in result.stderr) == (5, True)
    result = run("retry", x86_job, "--region", "us-west-2")
    assert (result.exit_code, "does not publish in us-west-2" in result.stderr) == (2, True)


@pytest.mark.parametrize("region", ["moon", "eu west 1", "EU-WEST-1", "eu-west", "", "../x-1"])
def test_region_of_a_silly_name_is_refused(
    run: Run, store: Store, x86_job: str, config: Path, region: str
) -> None:
    config.write_text('state_directory = "state"\n')
    finish(store, x86_job, "complete")
    publish_amis(store, "us-east-1")
    result = run("retry", x86_job, "--region", region)
    assert (result.exit_code, "is no name of a region" in result.stderr) == (2, True)
    assert AddedRegions(store).of(x86_job, 2) == []


@pytest.mark.usefixtures("aws")
def test_region_that_the_account_does_not_have_is_refused_at_once(
    run: Run, store: Store, x86_job: str, config: Path
) -> None:
    config.write_text('state_directory = "state"\n')
    finish(store, x86_job, "complete")
    publish_amis(store, "us-east-1")
    result = run("retry", x86_job, "--region", "eu-wset-1")
    assert result.exit_code == 2
    assert "the account has not enabled a region eu-wset-1: did you mean eu-west-1?" in (
        result.stderr
    )
    assert AddedRegions(store).of(x86_job, 2) == []
    assert run("retry", x86_job, "--region", "eu-west-1").exit_code == 0
    assert AddedRegions(store).of(x86_job, 2) == ["eu-west-1"]


def test_region_is_queued_with_a_note_where_ec2_cannot_be_asked(
    run: Run, store: Store, x86_job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody listens there.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    finish(store, x86_job, "complete")
    publish_amis(store, "us-east-1")
    result = run("retry", x86_job, "--region", "eu-west-1")
    assert result.exit_code == 0
    assert "EC2 was not asked whether the account has eu-west-1" in result.stderr


@pytest.mark.usefixtures("aws")
def test_region_of_a_job_that_is_being_cleaned_up_is_not_added_yet(
    run: Run, store: Store, x86_job: str
) -> None:
    finish(store, x86_job, "complete")
    publish_amis(store, "us-east-1")
    assert store.clean_again(x86_job, 1, queue=lambda *_: None)
    result = run("retry", x86_job, "--region", "eu-west-1")
    assert result.exit_code == 5
    assert "its clean-up has not ended; repeat the command when it has" in result.stderr


@pytest.mark.usefixtures("aws")
def test_region_is_added_to_the_job_that_has_the_image(
    run: Run, store: Store, jobs: JobQueue, x86_job: str
) -> None:
    same = dataclasses.replace(X86, source="task-1", checksum="sha256:" + "0" * 64)
    finish(store, x86_job, "failed")
    assert jobs.submit(same)
    finish(store, same.job, "complete")
    finish(store, x86_job, "complete")
    publish_amis(store, "us-east-1")
    result = run("retry", x86_job, "--region", "eu-west-1")
    assert result.exit_code == 5
    assert f"'fedimg retry {same.job} --region eu-west-1' adds the region" in result.stderr


@pytest.mark.usefixtures("aws")
def test_addition_that_failed_is_given_up(run: Run, store: Store, x86_job: str) -> None:
    finish(store, x86_job, "complete")
    publish_amis(store, "us-east-1")
    run("retry", x86_job, "--region", "eu-west-1")
    finish(store, x86_job, "incomplete")
    result = run("cancel", x86_job, "--json")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (0, "complete")
    assert "is complete, without the added regions" in result.stderr


def test_cancelling_a_job_twice_is_no_error(run: Run, x86_job: str) -> None:
    for _ in range(2):
        result = run("cancel", x86_job, "--json")
        assert (result.exit_code, json.loads(result.stdout)["state"]) == (0, "cancelled")


def test_ended_job_is_not_cancelled(run: Run, store: Store, x86_job: str) -> None:
    finish(store, x86_job, "complete")
    assert run("cancel", x86_job).exit_code == 5


def test_status_tells_that_an_incomplete_job_is_not_retried(
    run: Run, store: Store, x86_job: str
) -> None:
    finish(store, x86_job, "incomplete", "us-east-1: PV does not boot")
    said = " ".join(run("status", x86_job).stdout.split())
    assert f"not retried by itself: correct the cause, then 'fedimg retry {x86_job}'" in said


def test_status_tells_what_a_person_has_to_do_where_a_region_failed_for_good(
    run: Run, store: Store, x86_job: str
) -> None:
    store.begin(x86_job, 1)
    store.set_region(x86_job, "us-east-1", step="public")
    store.set_region(x86_job, "eu-west-1", step="failed for good", error="TagLimitExceeded")
    store.end(x86_job, 1, "incomplete", "eu-west-1: TagLimitExceeded")
    said = " ".join(run("status", x86_job).stdout.split())
    assert (
        f"not retried because of eu-west-1: correct the cause, then 'fedimg retry {x86_job}'"
        in (said)
    )
