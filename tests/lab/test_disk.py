"""Disk images that other programs take for real ones."""

import lzma
import os
import struct
import subprocess
import time
from pathlib import Path

import pytest

from lab import disk
from lab.machines import filesystems
from lab.machines.partitions import read_table
from lab.machines.programs import MissingProgram

pytestmark = pytest.mark.process

MIB = 1024 * 1024


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    first = disk.make_image(tmp_path / "first", size_mib=24, random_mib=2, uefi=True).read_bytes()
    # Times on disk are in whole seconds.
    time.sleep(1.1)
    (tmp_path / "elsewhere").mkdir()
    second = disk.make_image(tmp_path / "elsewhere/x", size_mib=24, random_mib=2, uefi=True)
    assert second.read_bytes() == first
    other = disk.make_image(tmp_path / "other", size_mib=24, random_mib=2, uefi=True, seed=1)
    assert other.read_bytes() != first


def test_an_image_is_sparse_and_of_its_size(tmp_path: Path) -> None:
    image = disk.make_image(tmp_path / "image", size_mib=256)
    assert image.stat().st_size == 256 * MIB
    assert image.stat().st_blocks * 512 < 40 * MIB


@pytest.mark.parametrize("uefi", [False, True])
def test_the_file_system_is_sound_and_holds_a_system(tmp_path: Path, uefi: bool) -> None:
    image = disk.make_image(tmp_path / "image", size_mib=24, random_mib=1, uefi=uefi)
    table = read_table(image)
    assert table.kind == ("gpt" if uefi else "mbr")
    root = filesystems.recognise(image, table.partitions[-1].offset)
    assert root is not None
    assert filesystems.complaint(root) is None
    assert b"Fedora" in (filesystems.read_file(root, "/usr/lib/os-release") or b"")
    menu = (filesystems.read_file(root, "/boot/grub/menu.lst") or b"").decode()
    kernel = next(line.split()[1] for line in menu.splitlines() if "kernel" in line)
    assert filesystems.holds_file(root, kernel)
    # Everything is root's, whoever made the image.
    listed = subprocess.run(
        ["/sbin/debugfs", "-R", "ls -l /boot", f"{image}?offset={root.offset}"],
        capture_output=True,
        text=True,
    ).stdout
    assert {tuple(line.split()[3:5]) for line in listed.splitlines() if line.strip()} == {
        ("0", "0")
    }


def test_an_efi_system_partition_holds_the_architectures_loader(tmp_path: Path) -> None:
    image = disk.make_image(tmp_path / "image", size_mib=24, uefi=True, architecture="aarch64")
    start = read_table(image).partitions[0].offset
    content = image.read_bytes()[start : start + 4 * MIB]
    # As firmware goes: boot sector, root directory, EFI, BOOT, the file's cluster chain.
    sector, per_cluster, reserved, fats, entries = struct.unpack_from("<HBHBH", content, 11)
    fat_sectors = struct.unpack_from("<H", content, 22)[0]
    root = (reserved + fats * fat_sectors) * sector
    data = root + entries * 32
    cluster = per_cluster * sector

    def look_up(at: int, name: bytes) -> tuple[int, int]:
        while content[at : at + 11] != name:
            assert content[at]
            at += 32
        return struct.unpack_from("<HI", content, at + 26)

    at = root
    for name in (b"EFI        ", b"BOOT       ", b"BOOTAA64EFI"):
        first, size = look_up(at, name)
        at = data + (first - 2) * cluster
    assert content[at : at + 2] == b"MZ"
    fat, length = reserved * sector, 0
    while first < 0xFF8:
        pair = struct.unpack_from("<H", content, fat + first * 3 // 2)[0]
        first = pair >> 4 if first % 2 else pair & 0xFFF
        length += cluster
    assert length == size


@pytest.mark.parametrize(("streams", "block_size"), [(1, None), (3, None), (2, MIB)])
def test_packed_images_unpack_to_themselves(
    tmp_path: Path, streams: int, block_size: int | None
) -> None:
    image = disk.make_image(tmp_path / "image.raw", size_mib=24, random_mib=1)
    packed = disk.compress(image, streams=streams, block_size=block_size)
    assert packed.name == "image.raw.xz"
    assert lzma.decompress(packed.read_bytes()) == image.read_bytes()
    listed = subprocess.run(
        ["xz", "--robot", "--list", str(packed)], capture_output=True, text=True, check=True
    ).stdout
    totals = next(line.split("\t") for line in listed.splitlines() if line.startswith("totals"))
    assert int(totals[1]) == streams
    assert int(totals[2]) == (streams if block_size is None else 24)


def test_a_missing_program_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.machines.programs.SEARCH_PATH", os.fspath(tmp_path))
    with pytest.raises(MissingProgram, match="apt install e2fsprogs"):
        disk.make_image(tmp_path / "image")


def test_an_image_too_small_says_what_failed(tmp_path: Path) -> None:
    with pytest.raises(disk.DiskNotMade):
        disk.make_image(tmp_path / "image", size_mib=6)
