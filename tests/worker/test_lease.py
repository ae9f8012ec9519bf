import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedimg.store.store import StoreError
from fedimg.worker.lease import FileLease, WorkerRunning

pytestmark = pytest.mark.process

LEASE = """
import pathlib, sys
from fedimg.worker.lease import FileLease
lease = FileLease(pathlib.Path(sys.argv[1]))
print("leased", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Start another process that holds the lease of tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", LEASE, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "leased\n"
    yield process
    process.kill()
    process.wait()


def test_error_of_a_second_worker_names_the_first(tmp_path, worker):
    with pytest.raises(WorkerRunning, match=f"process {worker.pid}.*{tmp_path}"):
        FileLease(tmp_path)
    with pytest.raises(WorkerRunning, match=f"process {worker.pid}"):
        FileLease(tmp_path)


def test_lease_is_free_after_kill_9(tmp_path, worker):
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    lease = FileLease(tmp_path)
    assert (tmp_path / "worker.lock").read_text() == f"{os.getpid()}\n"
    lease.release()


def test_released_lease_is_free(tmp_path):
    FileLease(tmp_path).release()
    FileLease(tmp_path).release()


def test_lease_in_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(StoreError, match=r"nowhere/worker\.lock"):
        FileLease(tmp_path / "nowhere")


def test_child_processes_do_not_inherit_the_lease(tmp_path):
    lease = FileLease(tmp_path)
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        lease.release()
        FileLease(tmp_path).release()
    finally:
        child.kill()
        child.wait()
