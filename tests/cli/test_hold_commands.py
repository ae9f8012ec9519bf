"""`fedimg hold` and `fedimg release`, and what other commands tell of the hold."""

import json
import socket

import pytest

from fedimg.cli import check, hold_commands  # noqa: F401 (defines the commands)
from fedimg.config import Settings
from fedimg.diagnostics import Status
from fedimg.store.store import Store
from tests.cli.conftest import X86, Run


def test_hold_and_release_tell_who_and_when(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ann")
    held = json.loads(run("hold", "--reason", "release day", "--json").stdout)
    assert held.pop("since").endswith("Z")
    by = f"ann@{socket.gethostname()}"
    assert held == {"held": True, "by": by, "reason": "release day", "publishing": []}
    released = run("release")
    assert released.exit_code == 0
    assert released.stdout.startswith(f"released by {by}: publishing has been held since 2")


def test_repeated_hold_and_release_change_nothing_and_are_no_errors(run: Run) -> None:
    first = run("hold", "--reason", "one").stdout
    again = run("hold", "--reason", "two")
    assert (again.exit_code, again.stdout) == (0, first)
    assert "nothing was changed" in again.stderr
    assert run("release").exit_code == 0
    second = run("release")
    assert (second.exit_code, second.stdout) == (0, "")
    assert "nothing was changed: publishing is not held" in second.stderr


def test_hold_names_the_regions_that_are_being_published(
    run: Run, store: Store, x86_job: str
) -> None:
    store.begin(X86.job, 1)
    store.set_region(X86.job, "us-east-1", step="publish")
    store.set_region(X86.job, "eu-west-1", step="copy")
    held = run("hold", "--json")
    assert json.loads(held.stdout)["publishing"] == [{"job": X86.job, "region": "us-east-1"}]
    assert f"job {X86.job} is still making its AMIs public in us-east-1" in held.stderr


def test_status_upload_and_retry_note_the_hold(run: Run, store: Store) -> None:
    run("hold", "--reason", "a bad night")
    note = "a bad night; 'fedimg release' ends the hold"
    assert note in run("status").stderr
    assert note in run("upload", X86.url).stderr
    run("cancel", X86.job)
    run("release")
    assert note not in run("status").stderr


def test_check_warns_of_the_hold(run: Run, store: Store) -> None:
    settings = Settings.model_validate({"state_directory": store.path.parent})
    (finding,) = check.hold(settings)
    assert finding.status is Status.OK
    run("hold", "--reason", "a bad night")
    (finding,) = check.hold(settings)
    assert finding.status is Status.WARNING
    assert "a bad night" in finding.text
    assert finding.hint == "'fedimg release' ends the hold"
