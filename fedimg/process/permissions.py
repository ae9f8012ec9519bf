"""Who may read and write the state directory: its owner, and to read, its owner's group."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

#: What may be allowed at most.
_DIRECTORY, _FILE = 0o750, 0o640
#: The files below it, of which the first is the queue's; SQLite gives two of them its mode.
DATABASE, LOCK = "fedimg.db", "worker.lock"
_FILES = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", LOCK)
#: Who may write there can put another database in its place.
_WRITABLE = 0o022


class TooOpen(OSError):
    """Others may read or write what is the owner's, who has to close it."""


def create(path: Path) -> None:
    """Make a file of the state directory, closed to others, when there is none. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _FILE))


def close_to_others(directory: Path) -> None:
    """Take the permissions from the state directory and its files that others are not to have.

    That can be done to what belongs to this process's user. A directory that holds other things too
    is not closed: when others may only read it, it is left, as its files are closed themselves.
    Raises TooOpen for what others may write, or read, and cannot be closed here; and OSError.
    """
    for path, limit in _paths(directory):
        found = path.lstat() if limit == _FILE else path.stat()
        mode = stat.S_IMODE(found.st_mode)
        if not mode & 0o777 & ~limit:
            continue
        if found.st_uid == os.geteuid() and (limit == _FILE or _holds_nothing_else(path)):
            _limit(path, limit)
        elif limit == _FILE or mode & _WRITABLE:
            raise TooOpen(_told(path, mode, limit))


def too_open(directory: Path) -> dict[str, bool]:
    """What others may do there that they should not, in words, and whether they may write."""
    found: dict[str, bool] = {}
    for path, limit in _paths(directory):
        mode = stat.S_IMODE(path.lstat().st_mode if limit == _FILE else path.stat().st_mode)
        if mode & 0o777 & ~limit:
            found[_told(path, mode, limit)] = bool(mode & _WRITABLE)
    return found


def _paths(directory: Path) -> Iterator[tuple[Path, int]]:
    """What is there, each with what may be allowed at most."""
    if directory.is_dir():
        yield directory, _DIRECTORY
    for name in _FILES:
        path = directory / name
        # What is a link or a folder, SQLite and the kernel judge.
        if path.is_file() and not path.is_symlink():
            yield path, _FILE


def _holds_nothing_else(directory: Path) -> bool:
    # Such as /tmp, or a home: to close those is not for us.
    names = [entry.name for entry in directory.iterdir()]
    return all(name.startswith("fedimg") or name == LOCK for name in names)


def _limit(path: Path, limit: int) -> None:
    # By its descriptor, and not through a link: whoever may write in the directory could put
    # another file there meanwhile. By O_PATH, as any other one that is closed takes away the locks
    # that SQLite has, in this process, on the same file.
    descriptor = os.open(path, os.O_PATH | (os.O_NOFOLLOW if limit == _FILE else os.O_DIRECTORY))
    try:
        found = os.fstat(descriptor)
        mode = stat.S_IMODE(found.st_mode)
        if limit == _FILE and (not stat.S_ISREG(found.st_mode) or found.st_nlink > 1):
            raise TooOpen(_told(path, mode, limit))
        os.chmod(f"/proc/self/fd/{descriptor}", mode & (~0o777 | limit))
    finally:
        os.close(descriptor)


def _told(path: Path, mode: int, limit: int) -> str:
    do = "write" if mode & _WRITABLE else "read"
    return f"others may {do} {path} (mode {mode:04o}); as its owner, run 'chmod {limit:o} {path}'"
