"""Check the modes of the state directory and its files, new ones and existing ones."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fedimg.cli import check
from fedimg.diagnostics import Status
from fedimg.process import permissions
from fedimg.store.store import Store, StoreError
from fedimg.worker.lease import FileLease

FILES = ("fedimg.db", "fedimg.db-wal", "fedimg.db-shm", "worker.lock")
SOMEBODY = 65534


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Set a umask by which everybody could read and write new files."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def assert_closed_in_use(directory: Path) -> None:
    """Open the database as a worker does, and check the modes of its files meanwhile."""
    with closing(Store(directory)) as store:
        store.jobs()
        lease = FileLease(directory)
        found = {name: mode(directory / name) for name in FILES}
        lease.release()
    assert found == dict.fromkeys(FILES, 0o640)


def test_new_files_are_closed_to_others(tmp_path: Path) -> None:
    assert_closed_in_use(tmp_path / "state")
    assert mode(tmp_path / "state") == 0o750


def test_existing_files_are_closed_to_others(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with closing(Store(state)):
        FileLease(state).release()
        state.chmod(0o777)
        for name in FILES:
            (state / name).chmod(0o666)
        assert_closed_in_use(state)
    assert mode(state) == 0o750


def test_tighter_modes_stay(tmp_path: Path) -> None:
    state = tmp_path / "state"
    Store(state).close()
    state.chmod(0o2700)
    (state / "fedimg.db").chmod(0o600)
    Store(state).close()
    assert mode(state) == 0o2700
    assert mode(state / "fedimg.db") == 0o600


def test_directory_with_other_files_is_not_closed_and_refused_if_others_can_write(
    tmp_path: Path,
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "letters").write_text("")
    for wide in (0o777, 0o1777, 0o770):
        shared.chmod(wide)
        with pytest.raises(StoreError, match=r"may write \S+/shared.*chmod 750"):
            Store(shared)
        assert mode(shared) == wide
    shared.chmod(0o755)
    Store(shared).close()
    assert (mode(shared), mode(shared / "fedimg.db")) == (0o755, 0o640)


@pytest.mark.skipif(os.getuid() != 0, reason="root alone can give a file away")
def test_open_file_of_another_user_is_refused_with_the_command_that_closes_it(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    Store(state).close()
    (state / "fedimg.db").chmod(0o644)
    os.chown(state / "fedimg.db", SOMEBODY, SOMEBODY)
    with pytest.raises(StoreError, match=r"may read \S+fedimg\.db \(mode 0644\).*chmod 640"):
        Store(state)
    assert mode(state / "fedimg.db") == 0o644


@pytest.mark.process
def test_closing_files_keeps_the_locks_of_the_same_process(tmp_path: Path) -> None:
    """Close a descriptor of the file, by which POSIX would release the locks of the process."""
    state = tmp_path / "state"
    with closing(Store(state)) as store, store.engine.begin() as held:
        held.exec_driver_sql("BEGIN IMMEDIATE")
        (state / "fedimg.db").chmod(0o666)
        (state / "fedimg.db-shm").chmod(0o666)
        permissions.close_to_others(state)
        permissions.create(state / "fedimg.db")
        writing = (
            "import sqlite3, sys\n"
            "sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        )
        done = subprocess.run(
            [sys.executable, "-c", writing, str(state / "fedimg.db")],
            capture_output=True,
            text=True,
        )
    assert "database is locked" in done.stderr
    assert mode(state / "fedimg.db") == 0o640


def test_link_in_place_of_a_file_changes_no_other_file(tmp_path: Path) -> None:
    state, other = tmp_path / "state", tmp_path / "other"
    Store(state).close()
    other.write_text("")
    other.chmod(0o644)
    (state / "worker.lock").symlink_to(other)
    Store(state).close()
    with pytest.raises(StoreError, match=r"worker\.lock"):
        FileLease(state)
    assert (mode(other), other.read_text()) == (0o644, "")


def test_check_reports_modes_that_are_too_wide(tmp_path: Path) -> None:
    state = tmp_path / "state"
    Store(state).close()
    assert [one.status for one in check.state_directory(state)] == [Status.OK]
    (state / "fedimg.db").chmod(0o644)
    (found,) = check.state_directory(state)
    assert found.status is Status.WARNING
    assert "may read" in found.text
    assert f"chmod 640 {state}/fedimg.db" in found.text
    state.chmod(0o777)
    assert [one.status for one in check.state_directory(state)] == [Status.PROBLEM, Status.WARNING]
