"""Filters of `status` and `amis`, narrow terminals, outputs that nobody reads, reasons of waits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from fedimg.images import Architecture, RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.store.store import Store
from fedimg.store.tables import jobs as jobs_table
from tests.cli.conftest import X86, Run, finish, on_terminal, program

FEDIMG = Path(sys.executable).parent / "fedimg"


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "--state", "faild"], 'unknown state "faild": did you mean failed?'),
        (["status", "--since", "yesterday"], "--since: "),
        (["amis", "--region", "us-east1"], 'unknown region "us-east1": did you mean us-east-1?'),
        (["amis", "--type", "hvm-gp9"], 'unknown AMI type "hvm-gp9"'),
        (["amis", "--type", "gp9"], 'unknown AMI type "gp9"'),
    ],
)
def test_filter_that_nothing_can_match_is_refused(
    run: Run, x86_job: str, arguments: list[str], said: str
) -> None:
    refused = run(*arguments)
    assert (refused.exit_code, said in refused.stderr) == (2, True), refused.stderr


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


@pytest.mark.process
def test_narrow_terminal_shows_each_job_and_step_whole(
    config: Path, store: Store, x86_job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.begin(x86_job, 1)
    store.set_region(x86_job, "us-east-1", step="write", detail="40 %")
    ended: list[bool] = []

    def seen(so_far: str) -> None:
        if "write 40 %" in so_far and not ended:
            ended.append(True)
            finish(store, x86_job, "complete")

    # It is as wide as a job's name is long, and 20 columns more.
    shown = on_terminal(config, "status", "--watch", x86_job, seen=seen, columns=76)
    assert ended, shown
    listed = on_terminal(config, "status", columns=60)
    assert x86_job in listed
    assert "complete, 0 of 1 public" in re.sub(r"\x1b\[[\d;]*m", "", listed)


@pytest.mark.process
def test_watch_in_a_pipe_repeats_no_line(config: Path, store: Store, x86_job: str) -> None:
    store.begin(x86_job, 1)
    with subprocess.Popen(
        [FEDIMG, "status", "--watch", x86_job],
        env={**os.environ, "FEDIMG_CONFIG": str(config)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        first = process.stdout.readline()

        def again() -> None:
            # The same step, over seconds.
            for _ in range(4):
                store.set_region(x86_job, "us-east-1", step="write", detail="40 %")
                time.sleep(0.6)
            finish(store, x86_job, "complete")

        thread = threading.Thread(target=again)
        thread.start()
        rest = process.stdout.readlines()
        thread.join()
    texts = [" ".join([*line.split()[:3], *line.split()[4:]]) for line in [first, *rest]]
    assert len(texts) == len(set(texts)), texts


@pytest.mark.process
@pytest.mark.parametrize("output", ["full", "closed", "nobody"])
@pytest.mark.parametrize("option", [[], ["--json"]])
def test_output_that_cannot_be_written_is_one_line_and_the_commands_own_status(
    config: Path, store: Store, x86_job: str, output: str, option: list[str]
) -> None:
    command = f"{FEDIMG} cancel {x86_job} {' '.join(option)}"
    redirected = {
        "full": f"{command} > /dev/full",
        "closed": f"{command} >&-",
        # The shell's `true` has gone when the command comes to write.
        "nobody": f"(sleep 0.1; {command}; echo status $? >&2) | true",
    }[output]
    done = subprocess.run(
        ["bash", "-c", redirected],
        env={**os.environ, "FEDIMG_CONFIG": str(config)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    about = [line for line in done.stderr.splitlines() if "standard output" in line]
    assert len(about) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode == 0) if output != "nobody" else "status 0" in done.stderr
    row = store.job(x86_job)
    assert row
    assert row.state == "cancelled"


@pytest.mark.process
def test_piped_rows_have_a_header(config: Path, store: Store, x86_job: str) -> None:
    first, second = program(config, "status").stdout.splitlines()
    assert first.split() == ["JOB", "STATE-OR-REGION", "STEP", "UPDATED", "REASON-OR-DETAIL"]
    assert second.split()[:3] == [x86_job, "queued", "queued"]
    assert program(config, "amis").stdout == ""
