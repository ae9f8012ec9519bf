"""Answers as rows, tables and JSON, on terminals and pipes.

Follows fedimg/cli/job_output.py, fedimg/cli/page.py, fedimg/cli/terminal.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedimg.images import AMI, AMIType
from fedimg.progress import CheckResult, CheckState
from fedimg.records import as_record
from fedimg.store.store import Store
from tests.cli.conftest import (
    X86,
    Run,
    finish,
    on_terminal,
    program,
    record_amis,
)

LONG = "copy: EC2 refused with ResourceLimitExceeded: " + "word " * 60 + "end"


@pytest.mark.usefixtures("four_amis")
def test_ami_rows_have_the_promised_keys(run: Run, store: Store) -> None:
    kind = AMIType.parse("hvm-gp2")
    name = f"{X86.name}-hvm-eu-west-1-gp2-0"
    store.publish_ami(AMI("ami-eu-west-1-x86_64-hvm-gp2", name, "eu-west-1", kind, "snap"))
    result = run("amis", "--json", "--region", "eu-west-1")
    (row,) = json.loads(result.stdout)
    promised = {
        "image": "Fedora-Cloud-Base-28-1.1.x86_64",
        "job": X86.job,
        "region": "eu-west-1",
        "ami": "ami-eu-west-1-x86_64-hvm-gp2",
        "name": name,
        "architecture": "x86_64",
        "virt_type": "hvm",
        "volume_type": "gp2",
        "snapshot": "snap-eu-west-1",
        "public": True,
        "state": "public",
    }
    assert {key: row[key] for key in promised} == promised


def test_status_rows_have_the_promised_keys(run: Run, store: Store, x86_job: str) -> None:
    store.begin(x86_job, 1)
    store.set_step(x86_job, "copy")
    store.set_region(x86_job, "us-east-1", step="write", detail="40 %")
    store.set_region(x86_job, "eu-west-1", step="failed", error=LONG)
    (row,) = json.loads(run("status", "--json").stdout)
    times = [row.pop("created"), row.pop("updated"), *(r.pop("updated") for r in row["regions"])]
    for text in times:
        seconds = time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
        assert abs(seconds - time.time()) < 60
    assert row == {
        "job": x86_job,
        "image": "Fedora-Cloud-Base-28-1.1.x86_64",
        "state": "running",
        "step": "copy",
        "error": None,
        "regions": [
            {"region": "eu-west-1", "step": "failed", "detail": "", "error": LONG},
            {"region": "us-east-1", "step": "write", "detail": "40 %", "error": None},
        ],
    }
    assert [row["job"] for row in json.loads(run("status", x86_job, "--json").stdout)] == [x86_job]


@pytest.mark.process
def test_status_of_a_job_shows_its_boot_checks_and_the_console(
    config: Path, store: Store, x86_job: str
) -> None:
    ami = AMI("ami-7", "a", "us-east-1", AMIType.parse("hvm-gp2"), "snap-1")
    checks = [
        CheckResult("login", CheckState.PASSED, 4.5, "as fedora"),
        CheckResult("selinux", CheckState.SKIPPED, 0.5, "no SELinux here"),
        CheckResult("units", CheckState.FAILED, 1, "failed:\nsshd.service"),
    ]
    store.set_test(x86_job, ami, "failed", checks, "[ 1.0] Booting\n[ 2.0] Kernel panic")
    (row,) = json.loads(program(config, "status", x86_job, "--json").stdout)
    (test,) = row["tests"]
    assert test.pop("updated").endswith("Z")
    assert test == {
        "region": "us-east-1",
        "virt_type": "hvm",
        "volume_type": "gp2",
        "ami": "ami-7",
        "status": "failed",
        "checks": [as_record(check) | {"passed": check.passed} for check in checks],
        "output": "[ 1.0] Booting\n[ 2.0] Kernel panic",
    }
    lines = program(config, "status", x86_job).stdout.splitlines()
    assert [line.split(None, 4)[1:3] + line.split(None, 4)[4:] for line in lines[2:]] == [
        ["us-east-1", "test:hvm-gp2", "ami-7 failed"],
        ["us-east-1", "test:hvm-gp2", "login: passed (4.5 s) as fedora"],
        ["us-east-1", "test:hvm-gp2", "selinux: skipped (0.5 s) no SELinux here"],
        ["us-east-1", "test:hvm-gp2", "units: failed (1 s) failed: sshd.service"],
        ["us-east-1", "test:hvm-gp2", "| [ 1.0] Booting"],
        ["us-east-1", "test:hvm-gp2", "| [ 2.0] Kernel panic"],
    ]


@pytest.mark.process
def test_piped_lines_are_uncut_and_have_fields(config: Path, store: Store, x86_job: str) -> None:
    store.set_region(x86_job, "us-east-1", step="waiting for the boot check")
    store.set_region(x86_job, "eu-west-1", step="failed", error=LONG.replace(" ", "\n"))
    record_amis(store, X86, "us-east-1", "hvm-gp2")
    status = program(config, "status", "28-1.1").stdout.splitlines()
    assert [line.split()[:3] for line in status] == [
        ["JOB", "STATE-OR-REGION", "STEP"],
        [x86_job, "queued", "queued"],
        [x86_job, "eu-west-1", "failed"],
        [x86_job, "us-east-1", "waiting-for-the-boot-check"],
    ]
    assert status[2].endswith(LONG)
    header, line = program(config, "amis").stdout.splitlines()
    assert header.split()[:2] == ["REGION", "AMI"]
    assert line.split() == [
        "us-east-1",
        "ami-us-east-1-x86_64-hvm-gp2",
        "x86_64",
        "hvm",
        "gp2",
        "private",
        "snap-us-east-1",
        "Fedora-Cloud-Base-28-1.1.x86_64-hvm-us-east-1-gp2-0",
        x86_job,
        "Fedora-Cloud-Base-28-1.1.x86_64",
    ]


FEDIMG = Path(sys.executable).parent / "fedimg"


def listed(run: Run, *options: str) -> list[str]:
    return [row["job"] for row in json.loads(run("status", "--json", *options).stdout)]


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
