"""Breaks the lab's cloud image in the ways that images are broken, by editing its disk.

Each kind differs from the good image in that one thing. What a fedimg should make of them is not
said here.
"""

import hashlib
import lzma
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.disk import MIB, SECTOR, DiskNotMade
from lab.ec2 import disks
from lab.image import ROOT_AT, Image
from lab.machines.programs import path_of

# Packed for speed; a break changes a chunk or two.
_LEVEL, _CHUNK = 0, 8 * MIB
_BOOT_CODE = 440
_BLOCK_SIZE = 4096
_UNIT = """\
[Unit]
Description=A service that fails

[Service]
Type=oneshot
ExecStart=/bin/false
"""
_SECOND = """\
[Unit]
Description=A mount that fails from the second boot on

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo "/dev/disk/by-label/none /srv ext4 x-systemd.device-timeout=5s 0 2" \\
    >>/etc/fstab'
"""


@dataclass(frozen=True)
class Break:
    """One way to break an image: `what` tells people, `do` changes the raw disk at a path."""

    what: str
    do: Callable[[Path], None]


def _edit(*commands: str, write: str = "") -> Callable[[Path], None]:
    """Change the root file system by debugfs; `@` in a command is a file that holds `write`."""

    def do(disk: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            text, script = Path(folder, "text"), Path(folder, "script")
            text.write_text(write)
            script.write_text("".join(f"{line.replace('@', str(text))}\n" for line in commands))
            _debugfs(disk, "-w", "-f", str(script))

    return do


def no_boot_loader(disk: Path) -> None:
    """As a disk is that was partitioned and never given to grub-install."""
    with disk.open("r+b") as file:
        file.write(bytes(_BOOT_CODE))
        file.seek(SECTOR)
        file.write(bytes(MIB - SECTOR))


def damage(disk: Path) -> None:
    """Overwrite what the file system knows of init's file, as a bad transfer or disk would."""
    # debugfs: "Inode 1234 is part of block group 0", "located at block 137, offset 0x0b00".
    said = _debugfs(disk, "-R", "imap /usr/lib/systemd/systemd")
    block = int(said.partition("located at block ")[2].partition(",")[0])
    with disk.open("r+b") as file:
        file.seek(ROOT_AT + block * _BLOCK_SIZE)
        file.write(b"\xa5" * _BLOCK_SIZE)


BREAKS = {
    "no-boot-loader": Break("no boot loader on the disk", no_boot_loader),
    # Without the dynamic linker no program starts, neither init nor the shell that the kernel
    # would take in its place.
    "kernel-panic": Break(
        "the kernel finds no init that runs", _edit("rm /usr/lib64/ld-linux-x86-64.so.2")
    ),
    "no-network": Break(
        "no driver for the network card",
        _edit("write @ /etc/modprobe.d/broken.conf", write="blacklist virtio_net\n"),
    ),
    "sshd-dead": Break(
        "sshd does not start",
        _edit("write @ /etc/ssh/sshd_config.d/broken.conf", write="NoSuchOption yes\n"),
    ),
    "cloud-init-fails": Break(
        "cloud-init ends with a traceback",
        _edit("rm /usr/lib/python3/dist-packages/yaml/__init__.py"),
    ),
    "failed-unit": Break(
        "boots and lets its user in, with a service that failed",
        _edit(
            "write @ /etc/systemd/system/broken.service",
            "cd /etc/systemd/system/multi-user.target.wants",
            "symlink broken.service /etc/systemd/system/broken.service",
            write=_UNIT,
        ),
    ),
    # A machine of another image than the lab's own, which does not find the lab at 127.0.0.1.
    "second-boot": Break(
        "boots once, and ends in emergency mode when it is booted again",
        _edit(
            "rm /etc/systemd/system/sysinit.target.wants/lab-loopback.service",
            "write @ /etc/systemd/system/second.service",
            "cd /etc/systemd/system/multi-user.target.wants",
            "symlink second.service /etc/systemd/system/second.service",
            write=_SECOND,
        ),
    ),
    "damaged": Break("bytes of the file system are damaged", damage),
}


class Breaker:
    """Breaks one image, in as many ways as wanted: what the results share is packed once."""

    def __init__(self, image: Image) -> None:
        self._image = image
        # A chunk's digest → it as a .xz stream of its own; streams in a row are a .xz file.
        self._packed: dict[bytes, bytes] = {}

    def make(self, kind: str, folder: Path) -> Path:
        """`folder`/`kind`.raw.xz: the image, broken in one of the ways of BREAKS.

        Raises DiskNotMade, or MissingProgram without e2fsprogs.
        """
        raw, packed = folder / f"{kind}.raw", folder / f"{kind}.raw.xz"
        disks.copy(self._image.raw, raw, self._image.raw.stat().st_size)
        try:
            BREAKS[kind].do(raw)
            with raw.open("rb") as source, packed.open("wb") as target:
                while chunk := source.read(_CHUNK):
                    target.write(self._pack(chunk))
        finally:
            raw.unlink()
        return packed

    def _pack(self, chunk: bytes) -> bytes:
        digest = hashlib.sha256(chunk).digest()
        if digest not in self._packed:
            self._packed[digest] = lzma.compress(chunk, check=lzma.CHECK_CRC64, preset=_LEVEL)
        return self._packed[digest]


def _debugfs(disk: Path, *arguments: str) -> str:
    done = subprocess.run(
        [path_of("debugfs"), *arguments, f"{disk}?offset={ROOT_AT}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("debugfs 1.")]
    # It ends with 0 whatever went wrong.
    if done.returncode != 0 or said:
        raise DiskNotMade(f"debugfs {' '.join(arguments)}: {' / '.join(said)}")
    return done.stdout
