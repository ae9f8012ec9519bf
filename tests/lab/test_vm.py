"""Virtual machines that boot the lab's own cloud image; emulated, a boot takes half a minute.

Follows lab/machines/virtual_machine.py, lab/image.py.
"""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import paramiko
import pytest

from lab import image as images
from lab.disk import MIB
from lab.ec2 import disks
from lab.ec2.partitions import private_name
from lab.image import Image
from lab.machines import Disk, Launch, acceleration, qemu
from lab.machines.programs import path_of
from lab.machines.virtual_machines import VirtualMachines
from tests.lab.machines_fixtures import Key, Rig, Shell, processes_naming

SSH_PORT = 22500
# What takes a minute on a machine with nothing else to do; three boot at once, and others may share
# the machine.
BOOT_SECONDS = 900
GONE_SECONDS = 120
COMMAND_SECONDS = 300
ROOT_MIB = 1024

# The first test that wants the image may have to build it.
pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Site:
    """Machines, what they boot, and a page that the host serves them."""

    rig: Rig
    image: Image
    page: int

    @property
    def machines(self) -> VirtualMachines:
        return self.rig.machines  # type: ignore[return-value]

    def launch(
        self,
        *volumes: Disk,
        root: Path | None = None,
        admits: Callable[[str, int], bool] = lambda source, port: True,
        **changes: str,
    ) -> Launch:
        volume = self.rig.volume(0, root=True, device="/dev/sda1")
        disks.copy(root or self.image.raw, volume.path, ROOT_MIB * MIB)
        launch = self.rig.launch(*volumes, root=volume, admits=admits)
        launch = replace(launch, **changes)
        self.machines.start(launch)
        return launch

    def login(self, launch: Launch) -> Shell:
        """Log in as the image's default user, when that works."""
        address = self.machines.address(launch.instance_id)
        pinned = self.rig.host_key.paramiko
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            client = paramiko.SSHClient()
            client.get_host_keys().add(f"[{address}]:{SSH_PORT}", pinned.get_name(), pinned)
            try:
                client.connect(
                    address,
                    SSH_PORT,
                    "fedora",
                    pkey=self.rig.client_key.paramiko,
                    look_for_keys=False,
                    allow_agent=False,
                    timeout=5,
                    banner_timeout=60,
                    auth_timeout=60,
                )
            except (OSError, paramiko.SSHException):
                client.close()
                if time.monotonic() > deadline:
                    pytest.fail(self.machines.console(launch.instance_id))
                time.sleep(1)
            else:
                return Shell(client, COMMAND_SECONDS)

    def console_with(self, launch: Launch, words: str) -> str:
        deadline = time.monotonic() + BOOT_SECONDS
        while words not in (text := self.machines.console(launch.instance_id)):
            if time.monotonic() > deadline:
                pytest.fail(f"the console never said {words!r}:\n{text}")
            time.sleep(0.5)
        return text


#: Another one after each boot.
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def until(look: Callable[[], bool], seconds: float = GONE_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while not (seen := look()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return seen


def debugfs(disk: Path, *arguments: str) -> str:
    """Read or change the root file system on a disk with debugfs; return its output."""
    command = [path_of("debugfs"), *arguments, f"{disk}?offset={images.ROOT_AT}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, cloud_image: Image) -> Iterator[Site]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from the lab's machine\n" * 100_000)

        def log_message(self, format: str, *args: object) -> None:
            pass

    folder = tmp_path_factory.mktemp("vm")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = acceleration.find(cloud_image.kernel, images.cache())
    machines = VirtualMachines(
        folder / "machines",
        acceleration=found.name,
        ssh_port=SSH_PORT,
        services=[server.server_port],
    )
    try:
        rig = Rig(machines, folder, cloud_image.raw, Key(), Key())  # type: ignore[arg-type]
        yield Site(rig, cloud_image, server.server_port)
    finally:
        machines.close()
        server.shutdown()
        server.server_close()


@dataclass(frozen=True)
class Booted:
    launch: Launch
    data: Disk
    shell: Shell
    #: While it is not set, the machine's security group admits nobody new.
    admitted: threading.Event


@pytest.fixture(scope="module")
def booted(site: Site) -> Iterator[Booted]:
    """One machine for all that a running one is asked."""
    data = site.rig.volume(64 * MIB)
    admitted = threading.Event()
    admitted.set()
    launch = site.launch(data, admits=lambda source, port: admitted.is_set())
    yield Booted(launch, data, site.login(launch), admitted)
    site.machines.terminate(launch.instance_id)
    assert processes_naming(launch.instance_id) == []


def test_boots_by_bios_with_the_host_key_and_user_of_its_user_data(
    site: Site, booted: Booted
) -> None:
    # Logging in has compared the host key.
    assert booted.shell("id -un").output == "fedora\n"
    assert booted.shell("test -d /sys/firmware/efi").status == 1
    assert booted.shell("cloud-id").output == "aws\n"
    console = site.console_with(booted.launch, "login:")
    assert "SeaBIOS" in console


def test_comes_up_without_a_failed_unit_and_with_a_grown_root(booted: Booted) -> None:
    assert booted.shell("systemctl is-system-running --wait").output == "running\n"
    assert booted.shell("systemctl --failed --plain --no-legend").output == ""
    size = int(booted.shell("df --output=size -B1 / | tail -1").output)
    assert size > 0.9 * ROOT_MIB * MIB


def test_a_volume_is_an_nvme_disk_that_its_serial_number_tells(booted: Booted) -> None:
    serials = booted.shell("cat /sys/block/nvme*n1/device/serial").output.split()
    assert set(serials) == {disk.volume_id.replace("-", "") for disk in booted.launch.disks}


def test_a_snapshot_holds_what_was_written_and_no_more(booted: Booted, tmp_path: Path) -> None:
    serial = booted.data.volume_id.replace("-", "")
    found = f"d=$(dirname $(dirname $(grep -l {serial} /sys/block/*/device/serial)))"
    written = os.urandom(3 * MIB)
    answer = booted.shell(
        f"{found}; sudo dd of=/dev/$(basename $d) bs=1M iflag=fullblock conv=fsync", written
    )
    assert answer.status == 0, answer.errors
    snapshot = tmp_path / "snapshot"
    disks.copy(booted.data.path, snapshot, 64 * MIB)
    content = snapshot.read_bytes()
    assert content == written + bytes(61 * MIB)
    assert sum(end - begin for begin, end in disks.extents(snapshot)) < 4 * MIB


def test_reaches_the_services_of_the_lab_and_nothing_else(site: Site, booted: Booted) -> None:
    count = booted.shell(f"curl -sS http://127.0.0.1:{site.page}/ | wc -c")
    assert int(count.output) == 2_300_000, count.errors
    other = f"curl -sS -m 5 http://127.0.0.1:{SSH_PORT}/"
    assert booted.shell(other).status != 0
    for address in ("169.252.0.1", "169.252.0.2", "192.0.2.1"):
        assert booted.shell(f"curl -sS -m 5 http://{address}/").status != 0


def test_resolves_its_own_name_and_its_address_and_says_at_once_that_the_world_is_away(
    site: Site, booted: Booted
) -> None:
    lines = booted.shell("cat /run/systemd/netif/leases/*").output.splitlines()
    lease = dict(line.split("=", 1) for line in lines if "=" in line)
    name = private_name(site.machines.address(booted.launch.instance_id), booted.launch.region)
    assert (lease.get("HOSTNAME"), lease.get("DOMAINNAME")) == tuple(name.split(".", 1))
    # The lab's own image has its name in /etc/hosts, and no resolver; others have what DHCP told.
    resolver = f"nameserver {lease.get('DNS')}\nsearch {lease.get('DOMAINNAME')}\n"
    booted.shell("sudo sed -i /ip-/d /etc/hosts")
    booted.shell("sudo tee /etc/resolv.conf", resolver.encode())
    for asked in ("$(hostname)", qemu.GUEST_ADDRESS):
        found = booted.shell(f"getent hosts {asked}").output.split()
        assert found == [qemu.GUEST_ADDRESS, name]
    assert booted.shell("hostname -f").output == f"{name}\n"
    assert booted.shell("sudo true").errors == ""
    by_tcp = booted.shell("RES_OPTIONS=use-vc getent hosts $(hostname)")
    assert by_tcp.output.split() == [qemu.GUEST_ADDRESS, name]
    # What gets no answer is ended while it still waits for one, with another status.
    away = booted.shell("RES_OPTIONS=timeout:120 timeout 60 getent hosts www.example.com")
    assert away.status == 2
    booted.shell("sudo tee /etc/resolv.conf", b"nameserver 169.254.169.253\n")
    assert booted.shell(f"getent hosts {name}").output.split() == [qemu.GUEST_ADDRESS, name]


def test_metadata_need_a_token(site: Site, booted: Booted) -> None:
    at = "http://169.254.169.254/latest"
    asked = booted.shell(f"curl -s -o /dev/null -w '%{{http_code}}' {at}/meta-data/")
    assert asked.output == "401"
    token = booted.shell(
        f"curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' {at}/api/token"
    ).output
    header = f"-H 'X-aws-ec2-metadata-token: {token}'"
    told = booted.shell(f"curl -s {header} {at}/meta-data/instance-id")
    assert told.output == booted.launch.instance_id
    address = site.machines.address(booted.launch.instance_id)
    told = booted.shell(f"curl -s {header} {at}/meta-data/local-hostname")
    assert told.output == private_name(address, booted.launch.region)
    assert booted.shell(f"curl -s {header} {at}/user-data").output.encode() == (
        booted.launch.user_data
    )


def test_a_volume_is_attached_and_detached_while_the_machine_runs(
    site: Site, booted: Booted
) -> None:
    late = site.rig.volume(8 * MIB, device="/dev/sdg")
    serial = late.volume_id.replace("-", "")

    def there() -> bool:
        return serial in booted.shell("cat /sys/block/nvme*n1/device/serial").output

    site.machines.attach(booted.launch.instance_id, late)
    assert until(there)
    site.machines.detach(booted.launch.instance_id, late.volume_id)
    assert until(lambda: not there())
    site.machines.attach(booted.launch.instance_id, late)
    assert until(there)
    site.machines.detach(booted.launch.instance_id, late.volume_id)


def test_a_security_group_that_does_not_admit_leaves_no_answer(site: Site, booted: Booted) -> None:
    booted.admitted.clear()
    try:
        address = site.machines.address(booted.launch.instance_id)
        # An SSH server speaks first.
        with (
            socket.create_connection((address, SSH_PORT), timeout=5) as client,
            pytest.raises(TimeoutError),
        ):
            client.recv(1)
    finally:
        booted.admitted.set()
    assert site.login(booted.launch)("id -un").output == "fedora\n"


@pytest.mark.long
def test_is_silent_until_it_has_a_network_and_a_reboot_or_stop_keeps_disks_and_host_key(
    site: Site,
) -> None:
    launch = site.launch()
    site.console_with(launch, "SeaBIOS")
    with pytest.raises(TimeoutError):
        socket.create_connection((site.machines.address(launch.instance_id), SSH_PORT), timeout=1)
    assert not site.machines.reachable(launch.instance_id)
    boot = site.login(launch)(f"echo kept >kept; {BOOT_ID}").output
    assert site.machines.reachable(launch.instance_id)
    site.machines.reboot(launch.instance_id)

    def booted_again() -> bool:
        try:
            return site.login(launch)(BOOT_ID).output not in (boot, "")
        except (OSError, EOFError, paramiko.SSHException):
            # It is just shutting down.
            return False

    assert until(booted_again, BOOT_SECONDS)
    assert site.login(launch)("cat kept; echo to be written yet >late").output == "kept\n"
    # Shut down as an operating system is, it has written what it still held.
    site.machines.stop(launch.instance_id)
    assert processes_naming(launch.instance_id) == []
    (root,) = launch.disks
    assert debugfs(root.path, "-R", "cat /home/fedora/late") == "to be written yet\n"
    site.machines.terminate(launch.instance_id)


@pytest.fixture(scope="module")
def by_other_means(site: Site) -> Iterator[dict[str, Launch]]:
    """Two machines that boot while the other does."""
    launches = {
        "uefi": site.launch(boot_mode="uefi"),
        "pv": site.launch(virtualization_type="paravirtual", instance_type="m3.medium"),
    }
    yield launches
    for launch in launches.values():
        site.machines.terminate(launch.instance_id)


@pytest.mark.long
def test_boots_by_uefi(site: Site, by_other_means: dict[str, Launch]) -> None:
    assert site.login(by_other_means["uefi"])("test -d /sys/firmware/efi").status == 0


@pytest.mark.long
def test_paravirtual_boots_the_kernel_that_menu_lst_names(
    site: Site, by_other_means: dict[str, Launch]
) -> None:
    launch = by_other_means["pv"]
    arguments = site.login(launch)("cat /proc/cmdline").output
    # GRUB would have named the kernel; the initrd is what finds a root disk by its UUID.
    assert "BOOT_IMAGE" not in arguments
    assert "root=UUID=" in arguments
    console = site.machines.console(launch.instance_id)
    assert "PV-GRUB" in console
    assert "SeaBIOS" not in console or "GRUB!" not in console


def test_paravirtual_without_menu_lst_does_not_boot(site: Site, tmp_path: Path) -> None:
    bare = tmp_path / "no-menu"
    disks.copy(site.image.raw, bare, site.image.raw.stat().st_size)
    debugfs(bare, "-w", "-R", "rm /boot/grub/menu.lst")
    launch = site.launch(root=bare, virtualization_type="paravirtual", instance_type="m3.medium")
    console = site.console_with(launch, "lab:")
    assert "grubdom>" in console
    assert processes_naming(launch.instance_id) == []
    site.machines.terminate(launch.instance_id)


def test_a_disk_without_boot_loader_is_told_on_the_console(site: Site, tmp_path: Path) -> None:
    bare = tmp_path / "blank"
    disks.create(bare, 16 * MIB)
    launch = site.launch(root=bare)
    assert "No bootable device" in site.console_with(launch, "No bootable device")
    assert processes_naming(launch.instance_id) != []
    site.machines.terminate(launch.instance_id)
    assert processes_naming(launch.instance_id) == []


def test_a_machine_whose_firmware_is_not_installed_never_boots(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = replace(qemu.ARM, firmware=Path("/nowhere/AAVMF_CODE.fd"))
    monkeypatch.setitem(qemu.ARCHITECTURES, "arm64", missing)
    launch = site.launch(architecture="arm64", boot_mode="uefi")
    assert "never boots" in site.console_with(launch, "apt install")
    site.machines.terminate(launch.instance_id)
