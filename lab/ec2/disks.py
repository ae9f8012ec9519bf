"""Volumes and snapshots as sparse files: made, copied without their holes, shared, removed."""

import fcntl
import os
from pathlib import Path

GIB = 1 << 30
FICLONE = 0x40049409  # ioctl that shares all blocks of a file with another, where the system can
CHUNK = 8 << 20


def create(path: Path, size: int) -> None:
    """Make an empty file of `size` bytes that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)


def copy(source: Path, target: Path, size: int) -> None:
    """Copy the present bytes of `source` into a file of `size` bytes; holes stay holes."""
    with source.open("rb") as old, target.open("wb") as new:
        if not _cloned(old.fileno(), new.fileno()):
            _copy_data(old.fileno(), new.fileno())
        new.truncate(size)


def share(source: Path, target: Path) -> None:
    """`target` is `source` under another name. Only for bytes that never change again."""
    os.link(source, target)


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def extents(path: Path) -> list[tuple[int, int]]:
    """(begin, end) in bytes of each stretch that is not a hole."""
    found = []
    with path.open("rb") as file:
        descriptor, at = file.fileno(), 0
        while (begin := _seek(descriptor, at, os.SEEK_DATA)) is not None:
            end = os.lseek(descriptor, begin, os.SEEK_HOLE)
            found.append((begin, end))
            at = end
    return found


def _cloned(old: int, new: int) -> bool:
    try:
        fcntl.ioctl(new, FICLONE, old)
    except OSError:
        return False
    return True


def _copy_data(old: int, new: int) -> None:
    at = 0
    while (begin := _seek(old, at, os.SEEK_DATA)) is not None:
        at = os.lseek(old, begin, os.SEEK_HOLE)
        while begin < at:
            block = os.pread(old, min(CHUNK, at - begin), begin)
            if not block:
                return
            os.pwrite(new, block, begin)
            begin += len(block)


def _seek(descriptor: int, at: int, whence: int) -> int | None:
    try:
        return os.lseek(descriptor, at, whence)
    except OSError:  # ENXIO: nothing but a hole from here on
        return None
