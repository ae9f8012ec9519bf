"""Test the scripts of the shipped checks on files of a test, in a mount namespace.

Follows fedimg/aws/boot/check_scripts/*.sh, fedimg/aws/instance/scripts.py.
"""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedimg.aws.instance import scripts

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
#: What the scripts look at; a machine's own in place of this host's.
FOLDERS = ("etc", "home", "root", "run")
_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Create the folders of a machine as an image ships them."""
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    (tmp_path / "etc/ssh").mkdir()
    (tmp_path / "home/fedora").mkdir()
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nbin:x:1:1::/:/sbin/nologin\nfedora:x:1000:1000::/home/fedora:\n"
    )
    (tmp_path / "etc/shadow").write_text("root:!locked::0:99999:7:::\nbin:*:::::::\nfedora:!!::\n")
    (tmp_path / "etc/machine-id").write_text("")
    return tmp_path


@pytest.fixture
def run(machine: Path) -> Run:
    """Return a function that runs a script on the machine: its exit status and output."""

    def run(name: str, *values: tuple[str, object], given: bytes | None = None) -> tuple[int, str]:
        script = scripts.text(f"boot/check_scripts/{name}")
        mounts = " && ".join(f'mount --bind "$0/{folder}" /{folder}' for folder in FOLDERS)
        done = subprocess.run(
            [*_NAMESPACE, f'{mounts} && exec sh -c "$1"', str(machine), script],
            input=scripts.values(values) if given is None else given,
            env={"PATH": f"{machine}/tools:/usr/sbin:/usr/bin:/sbin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.returncode, done.stdout.decode()

    return run


def noted(machine: Path, run: Run) -> list[str]:
    """Return the findings that shipped.sh notes."""
    assert run("shipped.sh") == (0, "")
    *found, last = (machine / "run/fedimg-shipped").read_text().splitlines()
    assert last == "looked"
    return found


def test_clean_image_has_no_findings(machine: Path, run: Run) -> None:
    (machine / "root/.ssh").mkdir()
    (machine / "root/.ssh/authorized_keys").write_text("# none\n\n")
    # systemd has filled it in since the boot.
    (machine / "etc/machine-id").write_text("0" * 32)
    assert noted(machine, run) == []


def test_everything_that_no_two_machines_may_share_is_reported(machine: Path, run: Run) -> None:
    (machine / "etc/ssh/ssh_host_rsa_key").write_text("secret")
    (machine / "etc/ssh/ssh_host_ecdsa_key").write_text("")
    (machine / "etc/shadow").write_text("root:$6$salt$secret:::::::\nbin:*::\nfedora:::::::\n")
    (machine / "home/fedora/.ssh").mkdir()
    (machine / "home/fedora/.ssh/authorized_keys").write_text("ssh-rsa AAAA somebody\n")
    shipped = machine / "etc/machine-id"
    shipped.write_text("0123456789abcdef0123456789abcdef\n")
    os.utime(shipped, (0, 0))
    assert noted(machine, run) == [
        "SSH host key /etc/ssh/ssh_host_rsa_key",
        "password of user root",
        "empty password of user fedora",
        "authorized key in /home/fedora/.ssh/authorized_keys",
        "machine-id 0123456789abcdef0123456789abcdef",
    ]


@pytest.mark.parametrize(
    ("state", "status", "words"),
    [
        ("done", 0, "status: done"),
        # cloud-init has recovered from what it complains of.
        ("degraded", 0, "degraded done"),
        ("error", 1, "status: error"),
        ("disabled", 1, "status: disabled"),
        (None, 77, "cloud-init is not installed"),
    ],
)
def test_status_of_cloud_init_decides(
    machine: Path, run: Run, state: str | None, status: int, words: str
) -> None:
    if state:
        (machine / "tools").mkdir()
        shutil.copy(ROOT / "lab/machines/tools/cloud-init", machine / "tools")
        (machine / "run/cloud-init").mkdir()
        (machine / "run/cloud-init/status").write_text(state)
    said = run("cloud_init.sh")
    assert said[0] == status
    assert words in said[1]


#: What stands in for the disk of a machine's root; nobody opens it.
_BLOCK_DEVICE = next((path for path in Path("/dev").glob("*") if path.is_block_device()), None)


@dataclass(frozen=True)
class Block:
    """A block device of a machine, as Linux shows it: its size in MiB, and what it is made of."""

    name: str
    mib: int
    on: tuple[str, ...] = ()
    start_mib: int | None = None


DISK = Block("vda", 2048)
PARTITION = Block("vda2", 1948, ("vda",), 100)
ROOT_VOLUME = Block("dm-0", 1600, ("vda2",))
SWAP = Block("dm-1", 340, ("vda2",))


def root_on(machine: Path, device: str, blocks: Sequence[Block], df_mib: int) -> tuple[int, str]:
    """Run root_size.sh on a machine with such devices and a root file system of `df_mib` MiB."""
    sys, dev, tools = machine / "sys", machine / "dev", machine / "tools"
    for folder in (sys, dev, tools):
        folder.mkdir()
    for block in blocks:
        partition = block.start_mib is not None
        # A partition's folder is in its disk's.
        home = sys / block.on[0] / block.name if partition else sys / block.name
        home.mkdir()
        if partition:
            (sys / block.name).symlink_to(home.relative_to(sys))
            (home / "partition").write_text("2\n")
            (home / "start").write_text(f"{(block.start_mib or 0) * 2048}\n")
        (home / "size").write_text(f"{block.mib * 2048}\n")
        (home / "holders").mkdir()
        if block.name.startswith("dm-"):
            (home / "dm").mkdir()
            (home / "slaves").mkdir()
            for below in block.on:
                (home / "slaves" / below).symlink_to(f"/sys/class/block/{below}")
                (sys / below / "holders" / block.name).symlink_to(f"/sys/class/block/{block.name}")
    for name in (device, "null"):
        (dev / name).touch()
    (dev / "root").symlink_to(device)
    for name, words in (
        ("findmnt", "/dev/root"),
        ("df", f"Filesystem 1K-blocks Used\n/dev/root {df_mib * 1024} 0"),
    ):
        (tools / name).write_text(f"#!/bin/sh\nprintf '%b\\n' '{words}'\n")
        (tools / name).chmod(0o755)
    mounts = (
        f'mount --bind {_BLOCK_DEVICE} "$0/dev/{device}" && mount --bind /dev/null "$0/dev/null" '
        '&& mount --bind "$0/sys" /sys/class/block && mount --rbind "$0/dev" /dev'
    )
    done = subprocess.run(
        [*_NAMESPACE, f'{mounts} && exec sh -c "$1"', str(machine), scripts.text(_ROOT_SIZE)],
        env={"PATH": f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    return done.returncode, done.stdout.decode()


_ROOT_SIZE = "boot/check_scripts/root_size.sh"


@pytest.mark.skipif(_BLOCK_DEVICE is None, reason="this host has no block device")
@pytest.mark.parametrize(
    ("device", "blocks", "df_mib", "status", "words"),
    [
        ("vda2", [DISK, PARTITION], 1900, 0, "1900 MiB on vda2"),
        ("vda2", [DISK, PARTITION], 1400, 1, "has 1400 MiB, but vda2 has 1948 MiB"),
        ("vda2", [DISK, replace(PARTITION, mib=1400)], 1390, 1, "548 MiB are unused behind"),
        ("dm-0", [DISK, PARTITION, ROOT_VOLUME, SWAP], 1590, 0, "1590 MiB on dm-0"),
        (
            "dm-0",
            [DISK, PARTITION, ROOT_VOLUME],
            1590,
            1,
            "348 MiB of vda2 belong to no logical volume",
        ),
        (
            "dm-0",
            [DISK, PARTITION, ROOT_VOLUME, SWAP],
            1200,
            1,
            "has 1200 MiB, but dm-0 has 1600 MiB",
        ),
        (
            "dm-0",
            [DISK, replace(PARTITION, mib=1400), replace(ROOT_VOLUME, mib=1390)],
            1380,
            1,
            "548 MiB are unused behind the root partition vda2",
        ),
        (
            "dm-1",
            [DISK, PARTITION, replace(ROOT_VOLUME, mib=1930), Block("dm-1", 1920, ("dm-0",))],
            1900,
            0,
            "1900 MiB on dm-1",
        ),
        (
            "dm-0",
            [DISK, Block("vdb", 2048), replace(ROOT_VOLUME, on=("vda", "vdb"))],
            1590,
            77,
            "is made of several devices",
        ),
    ],
    ids=[
        "grown",
        "file system",
        "partition",
        "lvm",
        "volume group",
        "file system on lvm",
        "partition of lvm",
        "lvm on luks",
        "several disks",
    ],
)
def test_root_is_followed_from_its_file_system_to_the_end_of_the_volume(
    machine: Path, device: str, blocks: list[Block], df_mib: int, status: int, words: str
) -> None:
    said = root_on(machine, device, blocks, df_mib)
    assert (said[0], words in said[1]) == (status, True), said


def test_selinux_has_to_enforce_where_the_image_has_it(machine: Path, run: Run) -> None:
    assert run("selinux.sh")[0] == 77
    (machine / "etc/selinux").mkdir()
    (machine / "etc/selinux/config").write_text("SELINUX=enforcing\nSELINUXTYPE=targeted\n")
    if not Path("/sys/fs/selinux/enforce").exists():
        status, said = run("selinux.sh")
        assert (status, "SELINUX=enforcing" in said) == (1, True)


def test_systemd_that_does_not_run_is_no_failure(run: Run) -> None:
    assert run("units.sh") == (77, "systemd is not running\n")


def test_reboot_is_recognized_by_a_file_that_only_memory_held(machine: Path, run: Run) -> None:
    assert run("boot.sh", given=b"mark\n") == (0, "")
    assert run("boot.sh", given=b"ask\n")[0] == 1
    boot_id = (machine / "run/fedimg-boot").read_text()
    (machine / "run/fedimg-boot").write_text("another\n")
    assert run("boot.sh", given=b"ask\n")[0] == 0
    (machine / "run/fedimg-boot").write_text(boot_id)
    assert run("boot.sh", given=b"ask\n")[0] == 1
    (machine / "run/fedimg-boot").unlink()
    assert run("boot.sh", given=b"ask\n")[0] == 0


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """Run a web server whose clock is `off` by some seconds, or that sends no Date."""

    class Page(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(204)
            if (off := self.server.off) is not None:  # type: ignore[attr-defined]
                self.send_header("Date", formatdate(time.time() + off, usegmt=True))
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.off = 0  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("off", "status", "words"),
    [
        (0, 0, "the clock differs by"),
        (900, 1, "the clock differs by"),
        (-900, 1, ""),
        (None, 1, "no Date"),
    ],
)
def test_clock_is_compared_with_the_servers(
    run: Run, server: ThreadingHTTPServer, off: int | None, status: int, words: str
) -> None:
    server.off = off  # type: ignore[attr-defined]
    url = f"http://127.0.0.1:{server.server_port}"
    said = run("clock.sh", ("date", url), ("tolerance", 300))
    assert said[0] == status, said
    assert words in said[1]


def test_network_check_reaches_and_resolves_the_configured_hosts(
    machine: Path, run: Run, server: ThreadingHTTPServer
) -> None:
    (machine / "etc/hosts").write_text("127.0.0.1 here.example.org\n")
    (machine / "etc/nsswitch.conf").write_text("hosts: files\n")
    url = f"http://here.example.org:{server.server_port}"
    status, said = run("network.sh", ("resolve", "here.example.org"), ("reach", url))
    assert (status, said) == (0, f"here.example.org resolves to 127.0.0.1\n{url} answers\n")
    status, said = run("network.sh", ("resolve", "nowhere.example.org"))
    assert (status, said) == (1, "nowhere.example.org could not be resolved\n")
    status, said = run("network.sh", ("reach", "http://here.example.org:1"))
    assert (status, "here.example.org" in said) == (1, True)


@pytest.mark.parametrize("name", ["network.sh", "clock.sh"])
def test_network_check_without_hosts_is_skipped(run: Run, name: str) -> None:
    status, said = run(name, *([("tolerance", 5)] if name == "clock.sh" else []))
    assert (status, "ec2.test." in said) == (77, True)
