"""Disks that boot and disks that do not, judged from real ones."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab import disk
from lab.machines.boot import Verdict, judge
from lab.machines.programs import path_of
from tests.lab.machines_fixtures import MIB, SSH_PORT, Rig, rig

pytestmark = pytest.mark.process

ROOT_OFFSET = 1 * MIB


@pytest.fixture
def image(tmp_path: Path) -> Callable[..., Path]:
    def make(**arguments: bool) -> Path:
        return disk.make_image(tmp_path / "image.raw", size_mib=24, random_mib=1, **arguments)

    return make


@pytest.fixture(scope="module")
def site(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("machines")) as made:
        yield made


def hvm(path: Path | None, boot_mode: str = "legacy-bios", architecture: str = "x86_64") -> Verdict:
    return judge(path, architecture=architecture, virtualization_type="hvm", boot_mode=boot_mode)


def pv(path: Path) -> Verdict:
    return judge(
        path,
        architecture="x86_64",
        virtualization_type="paravirtual",
        boot_mode="legacy-bios",
    )


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def debugfs(path: Path, command: str, offset: int = ROOT_OFFSET) -> None:
    subprocess.run(
        [path_of("debugfs"), "-w", "-R", command, f"{path}?offset={offset}"],
        check=True,
        capture_output=True,
    )


def said(verdict: Verdict) -> str:
    assert not verdict.boots
    return "\n".join(verdict.console)


def test_a_whole_image_boots_either_way_and_tells_what_it_is(image: Callable[..., Path]) -> None:
    path = image()
    for verdict in (hvm(path), hvm(path, "uefi-preferred"), pv(path)):
        assert verdict.boots, verdict.console
        assert "VERSION_ID=28" in (verdict.os_release or "")


def test_uefi_wants_an_efi_system_partition(image: Callable[..., Path]) -> None:
    assert "No bootable option" in said(hvm(image(), "uefi"))
    path = image(uefi=True, boot_code=False)
    assert hvm(path, "uefi").boots
    assert hvm(path, "uefi-preferred").boots
    assert not hvm(path).boots


def test_an_empty_volume_does_not_boot(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.write_bytes(bytes(4 * MIB))
    assert "not a bootable disk" in said(hvm(path))
    assert "Cannot mount" in said(pv(path))
    assert "no root volume" in said(hvm(None))


def test_garbage_does_not_boot(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(disk.random.Random(1).randbytes(4 * MIB))
    assert "not a bootable disk" in said(hvm(path))
    overwrite(path, 510, b"\x55\xaa")
    assert not hvm(path).boots
    overwrite(path, 446 + 4, b"\xee")
    assert not hvm(path).boots


def test_a_disk_without_a_signed_boot_sector_does_not_boot(image: Callable[..., Path]) -> None:
    assert "not a bootable disk" in said(hvm(image(boot_code=False)))


def test_a_boot_sector_that_sfdisk_wrote_will_do(image: Callable[..., Path]) -> None:
    path = image()
    overwrite(path, 0, bytes(440))
    assert hvm(path).boots


def test_without_a_partition_table_there_is_no_partition(image: Callable[..., Path]) -> None:
    path = image()
    overwrite(path, 446, bytes(64))
    assert "no such partition" in said(hvm(path))


def test_without_a_file_system_grub_knows_none(image: Callable[..., Path]) -> None:
    path = image()
    overwrite(path, ROOT_OFFSET + 1024, bytes(1024))
    assert "unknown filesystem" in said(hvm(path))


def test_a_damaged_file_system_is_a_panic(image: Callable[..., Path]) -> None:
    path = image()
    # The group descriptors and what follows them: the inode tables.
    overwrite(path, ROOT_OFFSET + 4096, b"\xff" * 256 * 1024)
    assert "Kernel panic" in said(hvm(path))
    assert not pv(path).boots


def test_an_image_that_was_cut_off_does_not_boot(image: Callable[..., Path]) -> None:
    path = image()
    with path.open("r+b") as file:
        file.truncate(ROOT_OFFSET + 64 * 1024)
        file.truncate(24 * MIB)
    assert not hvm(path).boots


def test_pv_boots_what_menu_lst_names(image: Callable[..., Path]) -> None:
    path = image(menu_lst=False)
    assert hvm(path).boots
    assert "no /boot/grub/menu.lst" in said(pv(path))


def test_pv_wants_the_kernel_that_menu_lst_names(
    image: Callable[..., Path], tmp_path: Path
) -> None:
    path = image(menu_lst=False)
    menu = tmp_path / "menu.lst"
    for kernel, words in (
        ("/boot/vmlinuz-none", "File not found"),
        ("../etc", "File not found"),
        ("", "names no kernel"),
    ):
        menu.write_text(f"default 0\ntitle one\n  root (hd0)\n  kernel {kernel}\n")
        debugfs(path, "mkdir /boot/grub")
        debugfs(path, "rm /boot/grub/menu.lst")
        debugfs(path, f"write {menu} /boot/grub/menu.lst")
        assert words in said(pv(path)), kernel


def test_pv_reads_a_disk_without_partitions(tmp_path: Path, image: Callable[..., Path]) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(image().read_bytes()[ROOT_OFFSET:])
    assert pv(whole).boots
    assert not hvm(whole).boots


def test_grub_legacy_reads_no_gpt(image: Callable[..., Path]) -> None:
    assert "cannot read a GPT" in said(pv(image(uefi=True)))


def test_unreadable_file_system_is_reported(image: Callable[..., Path]) -> None:
    path = image()
    overwrite(path, ROOT_OFFSET, b"XFSB")
    overwrite(path, ROOT_OFFSET + 1024, bytes(1024))
    assert hvm(path).boots
    assert "cannot look into" in said(pv(path))
    assert "no arm64 machine runs here" in said(hvm(path, architecture="arm64"))


def test_a_machine_that_does_not_boot_never_answers(site: Rig) -> None:
    dead = site.volume(4 * MIB, root=True)
    launch = site.start(site.launch(root=dead))
    console = site.console_with(launch, "lab:")
    assert "Boot failed: not a bootable disk" in console
    assert "login:" not in console
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((site.machines.address(launch.instance_id), SSH_PORT))
    site.machines.reboot(launch.instance_id)
    site.machines.stop(launch.instance_id)
    site.machines.terminate(launch.instance_id)


def test_machines_differ_by_what_they_are(site: Rig) -> None:
    for changes in (
        {"architecture": "arm64"},
        {"virtualization_type": "hvm", "boot_mode": "uefi"},
    ):
        booted, console = site.boots(site.root_image, **changes)
        assert not booted, console
    booted, console = site.boots(site.root_image, virtualization_type="paravirtual")
    assert booted
    assert "Fedora 28 (Cloud Edition)" in console


def test_xen_machines_have_other_devices_and_no_serial(site: Rig) -> None:
    volume = site.volume()
    launch = replace(site.launch(volume), instance_type="m3.medium")
    shell = site.connect(site.start(launch))
    assert shell("ls /sys/block").output.split() == ["xvda", "xvdf"]
    assert shell("cat /sys/block/*/device/serial").output == ""
    site.machines.terminate(launch.instance_id)
