"""Finds out how machines run fastest here: with KVM, if that really works, or emulated.

That /dev/kvm is there says little: inside of other virtual machines, guests were seen to start and
to hang or crash in their first second. So a kernel is booted, once, and the result kept.
"""

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.machines.programs import path_of
from lab.turns import in_turn

_KVM = Path("/dev/kvm")
# A kernel without a root disk comes to its panic in two seconds with KVM; emulated it takes six.
_SECONDS = 15
_LAST_WORDS = b"Kernel panic - not syncing: VFS: Unable to mount root fs"


@dataclass(frozen=True)
class Acceleration:
    """`name` is QEMU's, kvm or tcg; `reason` is for people."""

    name: str
    reason: str


def find(kernel: Path, cache: Path) -> Acceleration:
    """KVM where it boots `kernel`, else emulation. The trial's result is kept in `cache`."""
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return Acceleration("tcg", f"emulation: {_KVM} is not here, or not for this user")
    kept = cache / f"acceleration-{platform.node()}.json"
    # Another kernel, another QEMU: another trial.
    tried = {"host": platform.release(), "qemu": _version(), "kernel": kernel.stat().st_size}
    with in_turn(kept):
        try:
            before = json.loads(kept.read_text())
            if before["tried"] == tried:
                return Acceleration(**before["found"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        found = _try(kernel)
        new = kept.with_suffix(".new")
        new.write_text(json.dumps({"tried": tried, "found": asdict(found)}, indent=2) + "\n")
        new.replace(kept)
    return found


def _try(kernel: Path) -> Acceleration:
    trial = [
        path_of("qemu-system-x86_64"), "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", "pc,accel=kvm", "-cpu", "host", "-smp", "2", "-m", "256", "-no-reboot",
        "-serial", "stdio", "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            trial, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Acceleration(
            "tcg", f"emulation: a kernel did not boot with {_KVM} within {_SECONDS} s"
        )
    if _LAST_WORDS in done.stdout:
        return Acceleration("kvm", f"{_KVM}: a kernel was seen to boot with it")
    last = (done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    return Acceleration("tcg", f"emulation: a kernel crashed with {_KVM}: {last}")


def _version() -> str:
    said = subprocess.run(
        [path_of("qemu-system-x86_64"), "--version"], capture_output=True, text=True, check=True
    )
    return said.stdout.splitlines()[0]
