"""Restrict the state directory: its owner may write, its owner's group may read."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

#: The widest modes that are allowed.
_DIRECTORY, _FILE = 0o750, 0o640
#: The files in it: the database, two files to which SQLite gives the same mode, and the lock.
DATABASE, LOCK = "fedimg.db", "worker.lock"
_FILES = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", LOCK)
#: Whoever can write to the directory can replace the database.
_WRITABLE = 0o022


class TooOpen(OSError):
    """A file or directory has too wide a mode, and this process may not change it."""


def create(path: Path) -> None:
    """Create a file of the state directory with mode 0640 unless it exists. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _FILE))


def close_to_others(directory: Path) -> None:
    """Remove permissions that are too wide from the state directory and its files.

    Only what belongs to this process's user is changed. A directory that also holds other files
    keeps its mode if others can only read it, as the files of fedimg are closed themselves.
    Raises TooOpen if others can write, or read a file, and this process may not change it; OSError.
    """
    for path, limit in _paths(directory):
        status = path.lstat() if limit == _FILE else path.stat()
        mode = stat.S_IMODE(status.st_mode)
        if not mode & 0o777 & ~limit:
            continue
        if status.st_uid == os.geteuid() and (limit == _FILE or _holds_nothing_else(path)):
            _limit(path, limit)
        elif limit == _FILE or mode & _WRITABLE:
            raise TooOpen(_problem(path, mode, limit))


def too_open(directory: Path) -> dict[str, bool]:
    """Return the problems with the modes, each with whether others can write."""
    problems: dict[str, bool] = {}
    for path, limit in _paths(directory):
        mode = stat.S_IMODE(path.lstat().st_mode if limit == _FILE else path.stat().st_mode)
        if mode & 0o777 & ~limit:
            problems[_problem(path, mode, limit)] = bool(mode & _WRITABLE)
    return problems


def _paths(directory: Path) -> Iterator[tuple[Path, int]]:
    """Yield the existing paths, each with the widest mode that is allowed."""
    if directory.is_dir():
        yield directory, _DIRECTORY
    for name in _FILES:
        path = directory / name
        # SQLite refuses a folder in place of a file; the open of the lock refuses a link.
        if path.is_file() and not path.is_symlink():
            yield path, _FILE


def _holds_nothing_else(directory: Path) -> bool:
    # A directory with other files, such as /tmp or a home, is not for fedimg to close.
    names = [entry.name for entry in directory.iterdir()]
    return all(name.startswith("fedimg") or name == LOCK for name in names)


def _limit(path: Path, limit: int) -> None:
    # By descriptor, as others could replace the path by a link meanwhile. With O_PATH, as closing
    # any other descriptor of the file would release SQLite's locks on it in this process.
    descriptor = os.open(path, os.O_PATH | (os.O_NOFOLLOW if limit == _FILE else os.O_DIRECTORY))
    try:
        status = os.fstat(descriptor)
        mode = stat.S_IMODE(status.st_mode)
        if limit == _FILE and (not stat.S_ISREG(status.st_mode) or status.st_nlink > 1):
            raise TooOpen(_problem(path, mode, limit))
        os.chmod(f"/proc/self/fd/{descriptor}", mode & (~0o777 | limit))
    finally:
        os.close(descriptor)


def _problem(path: Path, mode: int, limit: int) -> str:
    verb = "write" if mode & _WRITABLE else "read"
    return (
        f"other users may {verb} {path} (mode {mode:04o}); as its owner, run "
        f"'chmod {limit:o} {path}'"
    )
