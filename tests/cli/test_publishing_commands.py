"""An upload finds its image's job and waits for its end, and a second worker is refused."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from fedimg.cli.output import Output
from fedimg.store.store import Store
from fedimg.worker.lease import FileLease
from tests.cli.conftest import FOLDER, X86, X86_URL, Run, finish, program

SHA256 = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("state", "status"),
    [("running", 0), ("complete", 0), ("incomplete", 4), ("failed", 1), ("cancelled", 1)],
)
def test_image_that_has_a_job_gets_no_second_job(
    run: Run, store: Store, x86_job: str, state: str, status: int
) -> None:
    if state == "running":
        store.begin(x86_job, 1)
    else:
        finish(store, x86_job, state)
    result = run("upload", X86_URL)
    assert (result.exit_code, result.stdout.strip()) == (status, x86_job)
    assert state in result.stderr
    assert len(store.jobs()) == 1


def test_same_checksum_at_another_url_is_the_same_image(run: Run, store: Store) -> None:
    first = run("upload", X86_URL, "--checksum", SHA256)
    second = run("upload", f"{FOLDER}/again/other.x86_64.raw.xz", "--checksum", SHA256)
    assert (second.exit_code, second.stdout) == (0, first.stdout)


def test_other_checksum_at_the_same_url_is_refused(run: Run, store: Store, x86_job: str) -> None:
    result = run("upload", X86_URL, "--checksum", SHA256)
    assert result.exit_code == 5
    assert SHA256 in result.stderr


@pytest.mark.parametrize(
    ("state", "status"), [("complete", 0), ("incomplete", 4), ("failed", 1), ("cancelled", 1)]
)
def test_upload_with_wait_exits_by_the_state_of_the_job(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch, state: str, status: int
) -> None:
    written, print_line = threading.Event(), Output.line

    def line(output: Output, text: str) -> None:
        print_line(output, text)
        if " write " in text:
            written.set()

    def work() -> None:
        while store.job(X86.job) is None:
            time.sleep(0.05)
        store.begin(X86.job, 1)
        store.set_region(X86.job, "us-east-1", step="write", detail="40 %")
        written.wait(240)
        store.end(X86.job, 1, state, "a reason" if status else None)

    monkeypatch.setattr(Output, "line", line)

    worker = threading.Thread(target=work)
    worker.start()
    result = run("upload", X86_URL, "--wait")
    worker.join()
    assert result.exit_code == status
    lines = [line.split()[:3] for line in result.stdout.splitlines()]
    assert [X86.job, "us-east-1", "write"] in lines
    assert lines[-1] == [X86.job, state, state]
    assert ("a reason" in result.stdout) == bool(status)


@pytest.mark.process
def test_second_worker_exits_with_status_5(config: Path, store: Store) -> None:
    lease = FileLease(config.parent / "state")
    try:
        done = program(config, "worker")
    finally:
        lease.release()
    assert done.returncode == 5
    assert f"process {os.getpid()}" in done.stderr
    assert "Traceback" not in done.stderr
