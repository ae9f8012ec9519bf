from __future__ import annotations

import json
from pathlib import Path

from fedimg.jobs.queue import JobQueue
from fedimg.worker.lease import FileLease
from tests.cli.conftest import ARM, X86, Run


def test_jobs_are_found_by_a_unique_part_of_their_names(run: Run, jobs: JobQueue) -> None:
    jobs.submit(X86)
    jobs.submit(ARM)

    def found(text: str) -> tuple[int, list[str]]:
        result = run("status", text, "--json")
        rows = json.loads(result.stdout)
        return result.exit_code, [row["job"] for row in rows] if isinstance(rows, list) else []

    assert found(X86.job) == (0, [X86.job])
    assert found(X86.job[:8]) == (0, [X86.job])
    assert found("aarch64") == (0, [ARM.job])
    assert found("Fedora") == (2, [])
    assert found("Debian") == (3, [])
    assert X86.job in run("status", "Fedora").stderr


def test_status_notes_that_no_worker_is_running(config: Path, run: Run, x86_job: str) -> None:
    assert "no worker" in run("status").stderr
    lease = FileLease(config.parent / "state")
    try:
        assert run("status").stderr == ""
    finally:
        lease.release()
