"""Says which system programs the machines and their disks need, and how to get a missing one."""

import os
import shutil
import subprocess
from collections.abc import Iterable

# mke2fs, debugfs and e2fsck are in /sbin, which an ordinary user's PATH leaves out on Debian.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

# program: (package on Debian, package on Fedora)
_PACKAGES = {
    "cat": ("coreutils", "coreutils"),
    "curl": ("curl", "curl"),
    "debugfs": ("e2fsprogs", "e2fsprogs"),
    "e2fsck": ("e2fsprogs", "e2fsprogs"),
    "env": ("coreutils", "coreutils"),
    "grub-mkimage": ("grub-common", "grub2-tools-minimal"),
    "gzip": ("gzip", "gzip"),
    "ip": ("iproute2", "iproute"),
    "losetup": ("mount", "util-linux"),
    "mke2fs": ("e2fsprogs", "e2fsprogs"),
    "mkfs.btrfs": ("btrfs-progs", "btrfs-progs"),
    "mkfs.xfs": ("xfsprogs", "xfsprogs"),
    "mmdebstrap": ("mmdebstrap", "mmdebstrap"),
    "mount": ("mount", "util-linux"),
    "nice": ("coreutils", "coreutils"),
    "nsenter": ("util-linux", "util-linux"),
    "newuidmap": ("uidmap", "shadow-utils"),
    "prlimit": ("util-linux", "util-linux"),
    "qemu-system-aarch64": ("qemu-system-arm", "qemu-system-aarch64-core"),
    "qemu-system-x86_64": ("qemu-system-x86", "qemu-system-x86-core"),
    "setpriv": ("util-linux", "util-linux"),
    "setsid": ("util-linux", "util-linux"),
    "socat": ("socat", "socat"),
    "umount": ("mount", "util-linux"),
    "unshare": ("util-linux", "util-linux"),
    "xz": ("xz-utils", "xz"),
    "zstd": ("zstd", "zstd"),
}


class MissingProgram(Exception):
    """A program that the lab runs is not installed."""


class NoNamespaces(Exception):
    """This system lets its users make no namespaces, so no instance can be confined."""


def path_of(program: str) -> str:
    """Return the path of `program`. Raises MissingProgram, which names the package to install."""
    found = shutil.which(program, path=SEARCH_PATH)
    if found is None:
        debian, fedora = _PACKAGES[program]
        raise MissingProgram(
            f"the lab needs the program {program}, which is not installed: "
            f"`apt install {debian}` on Debian, `dnf install {fedora}` on Fedora"
        )
    return found


def require(programs: Iterable[str]) -> None:
    """Raise MissingProgram for the first of `programs` that is not installed."""
    for program in programs:
        path_of(program)


def require_namespaces() -> None:
    """Make the namespaces an instance needs, once, and raise NoNamespaces when that fails."""
    namespaces = ["--user", "--map-root-user", "--mount", "--pid", "--uts", "--ipc", "--fork"]
    trial = [path_of("unshare"), *namespaces, "--", path_of("mount"), "-t", "proc", "proc", "/proc"]
    tried = subprocess.run(trial, capture_output=True, text=True, timeout=30)
    if tried.returncode != 0:
        raise NoNamespaces(
            "the lab confines each instance in user namespaces, and this system refused to make "
            f"one ({tried.stderr.strip()}). As root: `sysctl user.max_user_namespaces=10000`; on "
            "older Debian also `sysctl kernel.unprivileged_userns_clone=1`; on Ubuntu also "
            "`sysctl kernel.apparmor_restrict_unprivileged_userns=0`. In a container, /proc must "
            "not be masked (podman: `--security-opt unmask=ALL`; docker: "
            "`--security-opt seccomp=unconfined --security-opt systempaths=unconfined`)."
        )
