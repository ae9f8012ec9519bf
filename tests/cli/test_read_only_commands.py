"""`status` and `amis` are filtered, and `plan` calls EC2.

Follows fedimg/intake/backlog.py, fedimg/cli/ami_output.py, fedimg/cli/plan_output.py.
"""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from fedimg.images import Architecture, RawImage
from fedimg.intake.deferred import DeferReason, DeferredEntries
from fedimg.intake.watermarks import Watermarks
from fedimg.jobs.queue import JobQueue
from fedimg.store.store import Store
from fedimg.store.tables import amis as amis_table
from fedimg.store.tables import jobs as jobs_table
from tests.cli.conftest import X86, X86_URL, Run, client, finish


@pytest.mark.usefixtures("four_amis")
@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ([], 4),
        (["--image", "28-1.1.x86"], 3),
        (["--image", "Fedora-29"], 0),
        (["--region", "us-east-1"], 3),
        (["--arch", "aarch64"], 1),
        (["--arch", "arm64"], 1),
        (["--arch", "x86_64", "--region", "us-east-1"], 2),
        (["--type", "hvm"], 3),
        (["--type", "standard"], 2),
        (["--type", "hvm-gp2"], 2),
    ],
)
def test_amis_are_filtered(run: Run, filters: list[str], count: int) -> None:
    assert len(json.loads(run("amis", "--json", *filters).stdout)) == count


@pytest.mark.usefixtures("four_amis")
def test_unknown_architecture_is_an_error(run: Run) -> None:
    result = run("amis", "--arch", "ppc64le")
    assert result.exit_code == 2
    assert "ppc64le" in result.stderr


def test_status_notes_unanswered_announcements(run: Run, store: Store, x86_job: str) -> None:
    DeferredEntries(store).postpone(
        "build:7", DeferReason.STUMBLES, "it refuses getBuild (1): KeyError"
    )
    Watermarks(store).record_reading(["builds", "image"], "it does not answer")
    Watermarks(store).record_reading(["livemedia"])
    result = run("status", "--json")
    assert [row["job"] for row in json.loads(result.stdout)] == [x86_job]
    assert "build:7 waits for Koji, retries at 20" in result.stderr
    assert "refuses getBuild (1): KeyError" in result.stderr
    assert "missed entries of builds, image: it does not answer" in result.stderr


def everything() -> dict[str, set[str]]:
    """Return the ids of the volumes and security groups of the account, by kind of resource."""
    ec2 = client()
    return {
        "volumes": {v["VolumeId"] for v in ec2.describe_volumes()["Volumes"]},
        "groups": {g["GroupId"] for g in ec2.describe_security_groups()["SecurityGroups"]},
    }


@pytest.mark.usefixtures("aws")
def test_plan_lists_amis_by_region_and_what_is_left_out(config: Path, run: Run) -> None:
    config.write_text('state_directory = "state"\n')
    before = everything()
    result = run("plan", X86_URL, "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert {key: plan[key] for key in ("image", "job", "architecture", "origin")} == {
        "image": X86.name,
        "job": X86.job,
        "architecture": "x86_64",
        "origin": "us-east-1",
    }
    assert {
        "region": "eu-west-1",
        "name": f"{X86.name}-paravirtual-eu-west-1-gp2-0",
        "virt_type": "paravirtual",
        "volume_type": "gp2",
        "encrypted": False,
    } in plan["amis"]
    assert plan["attributes"]["hvm-gp2"] == {"ImdsSupport": "v2.0", "EnaSupport": True}
    assert plan["attributes"]["paravirtual-gp2"] == {}
    assert len(plan["amis"]) == 10
    assert [row["region"] for row in plan["left_out"]] == ["us-east-2"]
    assert everything() == before
    assert not (config.parent / "state").exists()


@pytest.mark.usefixtures("aws")
def test_plan_shows_encrypted_amis_and_their_keys(config: Path, run: Run) -> None:
    key = "alias/fedimg"
    config.write_text(
        'state_directory = "state"\n[ec2.amis]\ntypes = ["hvm-gp3", "hvm-gp3-encrypted"]\n'
        f'[ec2.encryption]\nkeys = {{ "us-east-1" = "{key}" }}\n'
    )
    result = run("plan", X86_URL, "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    made = [(row["region"], row["name"]) for row in plan["amis"] if row["encrypted"]]
    assert made == [("us-east-1", f"{X86.name}-hvm-us-east-1-gp3-encrypted-0")]
    assert plan["keys"] == {"us-east-1": key}
    left_out = {row["region"]: row["reason"] for row in plan["left_out"]}
    assert "ec2.encryption names no key" in left_out["eu-west-1"]


def submit(store: Store, count: int) -> list[str]:
    images = [RawImage(X86.url, Architecture.X86_64, "b", f"build-{n}") for n in range(count)]
    with closing(JobQueue(store)) as queue:
        return [job for image in images if (job := queue.submit(image))]


def listed(run: Run, *options: str) -> list[str]:
    return [row["job"] for row in json.loads(run("status", "--json", *options).stdout)]


def test_status_is_filtered_by_state_time_and_number(run: Run, store: Store) -> None:
    failed, complete, queued = submit(store, 3)
    finish(store, failed, "failed", "no")
    finish(store, complete, "complete")
    with store.engine.begin() as connection:
        old = sa.update(jobs_table).where(jobs_table.c.job == failed)
        connection.execute(old.values(updated=time.time() - 3 * 86400))
    assert listed(run, "--state", "failed") == [failed]
    assert listed(run, "--state", "failed", "--state", "queued") == [failed, queued]
    assert listed(run, "--since", "1d") == [complete, queued]
    # Jobs that have not ended are always listed.
    assert listed(run, "--limit", "1") == [complete, queued]
    assert listed(run, "--limit", "0") == listed(run) == [failed, complete, queued]


def test_list_for_people_has_the_active_and_the_last_ended_jobs(run: Run, store: Store) -> None:
    first, *_ = names = submit(store, 53)
    for name in names[:-1]:
        finish(store, name, "complete")
    told = run("status")
    assert "2 older jobs are not listed; --limit 0 lists all" in told.stderr
    # A header, and each job that is listed.
    assert len(told.stdout.splitlines()) == 1 + 51
    assert first not in told.stdout
    assert names[-1] in told.stdout


def test_status_tells_what_a_running_job_waits_for(run: Run, store: Store, x86_job: str) -> None:
    store.begin(x86_job, 1)
    for region, second in (("us-east-1", "01"), ("eu-west-1", "04")):
        text = f"waiting for EC2 to accept the worker's credentials, since 10:00:{second} UTC: no"
        store.set_region(x86_job, region, step="plan", detail=text)
    waits = "eu-west-1, us-east-1: waiting for EC2 to accept the worker's credentials: no"
    assert waits in run("status").stdout
    (row,) = json.loads(run("status", "--json").stdout)
    assert row["waits"] == waits
    store.set_region(x86_job, "us-east-1", step="write")
    store.set_region(x86_job, "eu-west-1", step="write")
    (row,) = json.loads(run("status", "--json").stdout)
    assert "waits" not in row


def test_amis_for_people_are_those_of_the_newest_jobs(run: Run, store: Store) -> None:
    # The jobs that made none, such as failed ones, take no place from the others.
    names = submit(store, 101)[:51]
    old, new = names[0], names[-1]
    with store.engine.begin() as connection:
        for number, job in enumerate(names):
            row = {"job": job, "image": "b", "region": "us-east-1", "public": True, "name": "n"}
            row |= {"ami": f"ami-{number}", "architecture": "x86_64", "virt_type": "hvm"}
            row |= {"volume_type": "gp2", "snapshot": "snap-1", "state": "public"}
            connection.execute(sa.insert(amis_table).values(row))
    told = run("amis", "--region", "us-east-1")
    assert (
        "listed are the AMIs of the last 50 jobs that made some; --limit 0 lists all" in told.stderr
    )
    assert (new in told.stdout, old in told.stdout) == (True, False)
    for chosen in (["--limit", "0"], ["--arch", "x86_64"], ["--json"], ["--state", "public"]):
        assert old in run("amis", *chosen).stdout
    assert len(json.loads(run("amis", "--json", "--limit", "2").stdout)) == 2
