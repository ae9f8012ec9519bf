"""Recognises a file system on a disk and reads ext2 to ext4 through e2fsprogs, without mounting."""

import re
import struct
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from lab.machines.programs import path_of

# A bound on hostile or huge disks; on a cloud image each of these takes milliseconds.
_SECONDS = 30
_MOST_BYTES = 1024 * 1024

_EXT_SUPERBLOCK = 1024
_EXT_RECOVER = 0x0004  # INCOMPAT_RECOVER: the journal holds what the file system does not yet
_PLAIN_PATH = re.compile(r"/[\w./+@~:-]*")


@dataclass(frozen=True)
class FileSystem:
    """A file system that begins `offset` bytes into `disk`. `kind` is ext, xfs, btrfs or vfat."""

    disk: Path
    offset: int
    kind: str
    uuid: str


def recognise(disk: Path, offset: int) -> FileSystem | None:
    """Return the file system at `offset`, by its magic number, or None."""
    with disk.open("rb") as file:
        file.seek(offset)
        head = file.read(4096)
        file.seek(offset + 65536)
        btrfs = file.read(128)
    if len(head) < 4096:
        return None
    if head[_EXT_SUPERBLOCK + 56 : _EXT_SUPERBLOCK + 58] == b"\x53\xef":
        return FileSystem(disk, offset, "ext", _uuid(head[_EXT_SUPERBLOCK + 104 :]))
    if head[:4] == b"XFSB":
        return FileSystem(disk, offset, "xfs", _uuid(head[32:]))
    if btrfs[64:72] == b"_BHRfS_M":
        return FileSystem(disk, offset, "btrfs", _uuid(btrfs[32:]))
    if head[510:512] == b"\x55\xaa" and (head[54:57] == b"FAT" or head[82:85] == b"FAT"):
        return FileSystem(disk, offset, "vfat", "")
    return None


def read_file(system: FileSystem, path: str) -> bytes | None:
    """Return the file at `path` in an ext file system, or None when it cannot be read."""
    if not _PLAIN_PATH.fullmatch(path):
        return None
    answer = _run("debugfs", "-R", f'cat "{path}"', _location(system))
    return answer.stdout[:_MOST_BYTES] if answer is not None and answer.stdout else None


def holds_file(system: FileSystem, path: str) -> bool:
    """Return whether an ext file system has `path`, as a file or as a link to something."""
    if not _PLAIN_PATH.fullmatch(path):
        return False
    answer = _run("debugfs", "-R", f'stat "{path}"', _location(system))
    return answer is not None and b"Inode:" in answer.stdout


def complaint(system: FileSystem) -> str | None:
    """Return e2fsck's complaints about an ext file system, in a line or two; None when it is sound.

    One whose journal is yet to be replayed is called sound: a kernel replays it as it mounts.
    """
    with system.disk.open("rb") as file:
        file.seek(system.offset + _EXT_SUPERBLOCK)
        superblock = file.read(1024)
    if struct.unpack_from("<I", superblock, 96)[0] & _EXT_RECOVER:
        return None
    answer = _run("e2fsck", "-n", "-f", _location(system))
    if answer is None:
        return f"e2fsck was not done after {_SECONDS} s"
    # e2fsck(8): 4 is errors left uncorrected, 8 an operational error; 1 and 2 cannot be with -n.
    if answer.returncode == 0:
        return None
    said = (answer.stdout + answer.stderr).decode(errors="replace").splitlines()
    telling = [line for line in said if line.strip() and not line.startswith(("e2fsck ", "Pass "))]
    return " / ".join(telling[:2]) or f"e2fsck ended with status {answer.returncode}"


def _location(system: FileSystem) -> str:
    # The form that e2fsprogs' unix_io takes for a file system inside a file.
    return f"{system.disk}?offset={system.offset}"


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[bytes] | None:
    try:
        return subprocess.run(
            [path_of(program), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C"},
        )
    except subprocess.TimeoutExpired:
        return None


def _uuid(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw[:16]))
