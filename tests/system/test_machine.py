"""Troubles of the worker's machine: no room, no files, a jumping clock, an upgrade."""

from __future__ import annotations

import compileall
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import fedimg
from tests.system.builds import announce_build
from tests.system.deployment import AMIS, BIN, PATIENCE, Deployment, deployed

#: In place of the machine's clock, one that a file moves: seconds to add.
CLOCK = """
import os, time

_file, _time, _time_ns = os.environ["CLOCK"], time.time, time.time_ns


def _moved():
    with open(_file) as file:
        return int(file.read() or 0)


time.time = lambda: _time() + _moved()
time.time_ns = lambda: _time_ns() + _moved() * 10**9
"""
DAY = 86400


def at_work(deployment: Deployment, step: str = "write") -> None:
    """Wait until the job is at this step in some region."""

    def there() -> bool | None:
        return any(r.step == step for job in deployment.jobs() for r in job.regions) or None

    deployment.until(there, f"a job at {step}")


def complete(deployment: Deployment) -> None:
    """All is as if nothing had happened."""
    (job,) = deployment.ended()
    assert (job["state"], job["error"]) == ("complete", None)
    deployment.nothing_but_published(AMIS)
    deployment.heard.wait_for("image.publish", PATIENCE, count=sum(AMIS.values()))


@pytest.mark.parametrize(
    ("limit", "most"),
    [
        pytest.param(resource.RLIMIT_FSIZE, 4096, id="no file may grow"),
        pytest.param(resource.RLIMIT_NOFILE, 3, id="no file may be opened", marks=pytest.mark.long),
    ],
)
def test_worker_that_runs_out_of_memory_or_files_ends_and_the_next_one_goes_on(
    deployment: Deployment, limit: int, most: int
) -> None:
    # What the worker loads late would be compiled into a file that is cut off, for all tests.
    compileall.compile_dir(Path(fedimg.__file__).parent, quiet=1)
    announce_build(deployment)
    at_work(deployment)
    _, hard = resource.prlimit(deployment.pid("worker"), limit)
    resource.prlimit(deployment.pid("worker"), limit, (most, hard))
    assert deployment.ends("worker") != 0
    deployment.start_worker()
    complete(deployment)


@contextmanager
def disk(place: Path, mib: int) -> Iterator[None]:
    """Mount a new file system of so many MiB at `place`."""
    if os.geteuid():
        pytest.skip("root alone may mount a file system")
    place.mkdir(parents=True)
    options = f"size={mib}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "fedimg", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def fill(file: Path) -> None:
    """Leave no room on the disk of a file."""
    with file.open("wb", buffering=0) as hole, suppress(OSError):
        while True:
            hole.write(bytes(4096))


def test_full_disk_ends_the_worker_and_loses_no_announcement(tmp_path: Path) -> None:
    state = tmp_path / "site" / "state"
    # The lab puts its keys into no folder that other users can read.
    state.parent.mkdir(mode=0o700)
    with disk(state, 32), deployed(tmp_path / "site") as deployment:
        announce_build(deployment)
        at_work(deployment)
        fill(state / "hole")
        assert deployment.ends("worker") == 1
        assert "disk is full" in deployment.log("worker")
        # Systemd starts it again, and again, until there is room.
        deployment.start_worker()
        assert deployment.ends("worker") == 1
        # What is announced meanwhile waits in the hub.
        announce_build(deployment, release="1.2", image={"seed": 1})
        deployment.until(lambda: "cannot store" in deployment.log("hub") or None, "the hub trying")
        (state / "hole").unlink()
        deployment.start_worker()
        assert {job["state"] for job in deployment.ended(2)} == {"complete"}
        deployment.heard.wait_for("image.publish", PATIENCE, count=2 * sum(AMIS.values()))


@pytest.mark.long
def test_jump_of_the_clock_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    clock = tmp_path / "clock"
    clock.write_text("0")
    with deployed(
        tmp_path / "site", environment={"PYTHONPATH": str(tmp_path), "CLOCK": str(clock)}
    ) as deployment:
        announce_build(deployment)
        for step, moved in (("write", DAY), ("copy", -DAY)):
            at_work(deployment, step)
            clock.write_text(str(moved))
        # A worker that starts finds what it recorded in its future.
        deployment.kill("worker")
        clock.write_text(str(-7 * DAY))
        deployment.start_worker()
        complete(deployment)


def test_second_worker_on_one_state_directory_is_refused(deployment: Deployment) -> None:
    deployment.until(lambda: "started (site" in deployment.log("worker") or None, "the worker up")
    second = subprocess.run(
        [BIN / "fedimg", "worker"],
        env=deployment.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert second.returncode == 5
    assert f"a worker (process {deployment.pid('worker')}) is already running on" in second.stderr
    announce_build(deployment)
    complete(deployment)


def test_job_in_flight_finishes_under_new_code(deployment: Deployment, tmp_path: Path) -> None:
    announce_build(deployment)
    at_work(deployment)
    assert deployment.stop("worker") == 0
    # Its code is another, as a hash of it would be; its steps are the same.
    new = tmp_path / "new" / "fedimg"
    shutil.copytree(Path(fedimg.__file__).parent, new)
    process = new / "worker" / "process.py"
    process.write_text(
        process.read_text().replace('\'worker "%s" started', '\'newer worker "%s" started')
    )
    deployment.environment["PYTHONPATH"] = str(new.parent)
    deployment.start_worker()
    complete(deployment)
    assert 'newer worker "worker" started' in deployment.log("worker")
