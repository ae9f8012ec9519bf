"""The kernel and initrd that PV-GRUB loads, as files that a machine can be started with."""

import subprocess
from pathlib import Path

from lab.machines.boot import Found
from lab.machines.filesystems import FileSystem
from lab.machines.programs import path_of
from lab.machines.qemu import Direct

_SECONDS = 60


class NotLoaded(Exception):
    """A file that menu.lst names cannot be read."""


def load(found: Found, folder: Path) -> Direct:
    """Copy kernel and initrd into `folder`. Raises NotLoaded, or OSError.

    On EC2 the console of a paravirtual machine is Xen's; here it is a serial port, which is added
    to the kernel's arguments and is the only change to them.
    """
    kernel = _copy(found.root, found.entry.kernel, folder / "kernel")
    initrd = None
    if found.entry.initrd is not None:
        initrd = _copy(found.root, found.entry.initrd, folder / "initrd")
    return Direct(kernel, initrd, f"{found.entry.arguments} console=ttyS0".strip())


def _copy(system: FileSystem, path: str, target: Path) -> Path:
    target.unlink(missing_ok=True)
    # debugfs tells failures by words alone; its paths have been looked at by whoever found them.
    said = subprocess.run(
        [
            path_of("debugfs"),
            "-R",
            f'dump "{path}" "{target}"',
            f"{system.disk}?offset={system.offset}",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    if not target.exists() or not target.stat().st_size:
        raise NotLoaded(f"{path} cannot be read from the root disk: {said.stderr.strip()}")
    return target
