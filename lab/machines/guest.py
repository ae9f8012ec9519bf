"""Lays out the files that are an instance's own at its first boot, in place of an image's."""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.machines.cloud_init import CloudInit, User
from lab.machines.confine import OWN_TREES, Login

_TOOLS = Path(__file__).parent / "tools"
# Copied, since they are files: names and places that programs look up.
_COPIED = ("ld.so.cache", "localtime", "protocols", "resolv.conf", "services", "ssl/openssl.cnf")
_COPIED_FEDORA = ("pki/tls/cert.pem", "pki/tls/openssl.cnf")
# Mount points for what confine shares.
_SHARED = ("alternatives", "crypto-policies", "pki/ca-trust", "pki/tls/certs", "ssl/certs")
_FIRST_UID = 1000

# Where the image's own cannot be read; it says no more than is true.
_OS_RELEASE = (
    'NAME="Linux"\nID=linux\nPRETTY_NAME="Linux (the image\'s os-release was not readable)"\n'
)


@dataclass(frozen=True)
class Identity:
    """The identity of an instance, as its metadata tells it."""

    instance_id: str
    hostname: str
    private_name: str  # with its domain
    address: str
    os_release: str | None


def logins(cloud: CloudInit) -> dict[str, Login]:
    """Everybody in `cloud.users` by name, root with uid 0, the others from 1000 on."""
    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    found = {"root": Login("root", 0, "/root", shell)}
    others = [user for user in cloud.users if user.name != "root"]
    for number, user in enumerate(others):
        uid = _FIRST_UID + number
        found.setdefault(user.name, Login(user.name, uid, f"/home/{user.name}", shell))
    return found


def furnish(disk: Path, identity: Identity, cloud: CloudInit, user_data: bytes) -> None:
    """Write the instance's own files under `disk`, one folder for each of OWN_TREES.

    What would belong to root is without the right to write: everybody in the instance owns every
    file, and root is the one who needs no right.
    """
    for tree in OWN_TREES:
        (disk / tree).mkdir(parents=True, exist_ok=True)
    people = logins(cloud)
    etc = disk / "etc"
    for name, text in _settings(identity, people.values(), cloud).items():
        _write(etc / name, text.encode())
    for name in (*_COPIED, *_COPIED_FEDORA):
        source = Path("/etc") / name
        if source.is_file() and os.access(source, os.R_OK):
            _write(etc / name, source.read_bytes())
    for name in _SHARED:
        if (Path("/etc") / name).is_dir():
            (etc / name).mkdir(parents=True, exist_ok=True)

    tools = disk / "usr/local/bin"
    tools.mkdir(parents=True)
    for tool in sorted(_TOOLS.iterdir()):
        _write(tools / tool.name, tool.read_bytes(), mode=0o555)

    instance = disk / "var/lib/cloud/instances" / identity.instance_id
    _write(instance / "user-data.txt", user_data)
    (disk / "var/lib/cloud/instance").symlink_to(f"instances/{identity.instance_id}")
    _write(disk / "var/lib/cloud/data/instance-id", f"{identity.instance_id}\n".encode())
    _write(disk / "var/log/cloud-init-output.log", b"")
    (disk / "var/tmp").mkdir()
    _lock(disk)

    for folder in ("home", "root"):
        (disk / folder).chmod(0o755)
    for user in cloud.users:
        _furnish_home(disk / people[user.name].home.lstrip("/"), user)
    (disk / "home").chmod(0o555)
    # Nobody's to read, so root's alone.
    (disk / "root").chmod(0o000)
    for scratch in ("tmp", "var/tmp"):
        (disk / scratch).chmod(0o1777)


def empty_scratch(disk: Path) -> None:
    """Empty /tmp, as a boot does."""
    remove(disk / "tmp")
    (disk / "tmp").mkdir()
    (disk / "tmp").chmod(0o1777)


def remove(tree: Path) -> None:
    """Delete `tree`, whatever rights its folders were left with."""
    tree.chmod(stat.S_IRWXU)
    for folder, folders, _ in os.walk(tree):
        for name in folders:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, stat.S_IRWXU)
    shutil.rmtree(tree)


def _settings(identity: Identity, people: Iterable[Login], cloud: CloudInit) -> dict[str, str]:
    """Return the files of /etc that say who is who."""
    people = list(people)
    sudoers = [f"{user.name} {rule}" for user in cloud.users for rule in user.sudo]
    return {
        "passwd": "".join(f"{p.name}:x:{p.uid}:{p.uid}::{p.home}:{p.shell}\n" for p in people),
        "group": "".join(f"{p.name}:x:{p.uid}:\n" for p in people),
        "hostname": f"{identity.hostname}\n",
        # What is said about names comes from the host's resolver, which does not know these two.
        "hosts": "127.0.0.1 localhost\n::1 localhost\n"
        f"{identity.address} {identity.private_name} {identity.hostname}\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "os-release": identity.os_release or _OS_RELEASE,
        "machine-id": hashlib.sha256(identity.instance_id.encode()).hexdigest()[:32] + "\n",
        "shells": "/bin/sh\n/bin/bash\n",
        "sudoers.d/90-cloud-init-users": "".join(f"{line}\n" for line in sudoers),
    }


def _furnish_home(home: Path, user: User) -> None:
    home.mkdir(mode=0o700, exist_ok=True)
    if user.authorized_keys:
        keys = home / ".ssh/authorized_keys"
        _write(keys, "".join(f"{key}\n" for key in user.authorized_keys).encode(), mode=0o600)
        keys.parent.chmod(0o700)


def _write(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _lock(tree: Path) -> None:
    """Take the right to write from all there is so far."""
    for folder, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, os.stat(path).st_mode & 0o555)
