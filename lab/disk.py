"""Makes raw disk images like those that Koji builds, and packs them as .raw.xz, without root."""

import os
import random
import struct
import subprocess
import tempfile
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from lab.fat import efi_system
from lab.machines.partitions import EFI_SYSTEM
from lab.machines.programs import path_of

MIB = 1024 * 1024
SECTOR = 512

_LINUX_DATA = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
_FIRST_SECTOR = MIB // SECTOR
_EFI_SECTORS = 4 * MIB // SECTOR
_GPT_ENTRIES = 128
_GPT_ENTRY_SECTORS = 32
_LOADERS = {"x86_64": "BOOTX64.EFI", "i386": "BOOTIA32.EFI", "aarch64": "BOOTAA64.EFI"}

# Equal arguments give equal bytes: what e2fsprogs would draw, or look up on this host, is said.
_TIME = "1525132800"  # 2018-05-01, when Fedora 28 was released
_NAMESPACE = uuid.UUID("5f0a4f4c-7a8e-4d69-8f5b-6b1c4a1e2d3f")
_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,"
    "large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
)

# Prints the text behind it through the BIOS, and stops. A real machine gets this far and no
# further: there is no operating system in these images.
_BOOT_CODE = bytes.fromhex("fa 31c0 8ed8 be167c ac 08c0 7406 b40e cd10 ebf5 f4 ebfd")
_BOOT_TEXT = b"This disk was made by fedimg's lab, and boots only there.\r\n\0"

_OS_RELEASE = """\
NAME=Fedora
VERSION="28 (Cloud Edition)"
ID=fedora
VERSION_ID=28
PRETTY_NAME="Fedora 28 (Cloud Edition)"
VARIANT="Cloud Edition"
VARIANT_ID=cloud
"""
_MENU_LST = """\
default=0
timeout=0
title Fedora ({release})
    root (hd0)
    kernel /boot/vmlinuz-{release} ro root=UUID={uuid} console=hvc0 LANG=en_US.UTF-8
    initrd /boot/initramfs-{release}.img
"""
_GRUB_CFG = """\
linux /boot/vmlinuz-{release} ro root=UUID={uuid} console=ttyS0,115200n8
initrd /boot/initramfs-{release}.img
"""


#: The programs that pack a raw image, by the suffix that its file's name then gets.
PACKED = {".xz": "xz", ".zst": "zstd", ".gz": "gzip", "": "cat"}


class DiskNotMade(Exception):
    """A program that makes or packs images failed."""


def make_image(
    path: Path,
    *,
    size_mib: int = 64,
    menu_lst: bool = True,
    boot_code: bool = True,
    uefi: bool = False,
    random_mib: int = 8,
    seed: int = 0,
    architecture: str = "x86_64",
) -> Path:
    """Write a sparse disk image of `size_mib` MiB to `path`: partition table, ext4, a Fedora tree.

    Without `menu_lst` it boots as HVM and not as PV; without `boot_code` no BIOS boots it. `uefi`
    gives it a GPT with an EFI system partition in place of an MBR. `random_mib` MiB of it do not
    compress. Equal arguments give equal bytes. Raises DiskNotMade, or MissingProgram without
    e2fsprogs.
    """
    identity = f"{size_mib} {menu_lst} {boot_code} {uefi} {random_mib} {seed} {architecture}"
    root_uuid = uuid.uuid5(_NAMESPACE, identity)
    sectors = size_mib * MIB // SECTOR
    code = _BOOT_CODE + _BOOT_TEXT if boot_code else b""
    first = _FIRST_SECTOR + (_EFI_SECTORS if uefi else 0)
    last = sectors - (_FIRST_SECTOR if uefi else 0) - 1
    with path.open("wb") as file:
        file.truncate(size_mib * MIB)
        if uefi:
            efi = (EFI_SYSTEM, _FIRST_SECTOR, first - 1)
            write_gpt(file, sectors, [efi, (_LINUX_DATA, first, last)], code, root_uuid)
            file.seek(_FIRST_SECTOR * SECTOR)
            # What a UEFI firmware starts begins like any Windows program.
            loader = b"MZ".ljust(MIB // 16, b"\0")
            file.write(efi_system(_EFI_SECTORS * SECTOR, _LOADERS[architecture], loader))
        else:
            row = mbr_row(active=True, kind=0x83, first=first, count=last - first + 1)
            file.write(boot_sector(code, [row], root_uuid, signed=boot_code))
    chosen = random.Random(identity)
    kernel = f"4.16.3-301.fc28.{architecture}"
    filled = {"release": kernel, "uuid": str(root_uuid)}
    tree = {
        "/boot/grub2/grub.cfg": _GRUB_CFG.format(**filled).encode(),
        f"/boot/vmlinuz-{kernel}": b"MZ" + chosen.randbytes(64 * 1024),
        f"/boot/initramfs-{kernel}.img": b"070701" + chosen.randbytes(64 * 1024),
        "/etc/fstab": f"UUID={root_uuid} / ext4 defaults 1 1\n".encode(),
        "/etc/hostname": b"localhost\n",
        "/etc/cloud/cloud.cfg": b"system_info: {default_user: {name: fedora}}\n",
        "/usr/lib/os-release": _OS_RELEASE.encode(),
        "/usr/share/lab/random": chosen.randbytes(random_mib * MIB),
        "/var/log/README": b"Logs are in the journal.\n",
    }
    if menu_lst:
        tree["/boot/grub/menu.lst"] = _MENU_LST.format(**filled).encode()
    links = {"/etc/os-release": "../usr/lib/os-release"}
    _make_ext4(path, first * SECTOR, (last - first + 1) * SECTOR, root_uuid, tree, links)
    return path


def compress(
    path: Path,
    *,
    streams: int = 1,
    block_size: int | None = None,
    threads: int = 2,
    level: int = 0,
) -> Path:
    """Pack `path` with xz as `path`.xz, as that many streams one after the other.

    `block_size` is bytes; without it, a stream is one block. `level` is xz's, 0 to 9. Raises
    DiskNotMade, or MissingProgram without xz.
    """
    packed = path.with_name(f"{path.name}.xz")
    size = path.stat().st_size
    command = [path_of("xz"), "--compress", "--stdout", f"-{level}", "--check=crc64"]
    if block_size is None:
        # With more threads than one, xz picks a block size by itself.
        command += ["--threads=1"]
    else:
        command += [f"--threads={threads}", f"--block-size={block_size}"]
    share = -(-size // streams)
    with path.open("rb") as source, packed.open("wb") as target:
        for _ in range(streams):
            _compress_stream(command, source, share, target)
    return packed


def packed_as(path: Path, suffix: str) -> Path:
    """Pack `path` as `path`.xz, .zst or .gz by a suffix of `PACKED`; itself for "".

    Raises DiskNotMade, or MissingProgram without the program.
    """
    if suffix == ".xz":
        return compress(path)
    if not suffix:
        return path
    packed = path.with_name(f"{path.name}{suffix}")
    program = PACKED[suffix]
    with path.open("rb") as source, packed.open("wb") as target:
        done = subprocess.run([path_of(program), "-1", "--stdout"], stdin=source, stdout=target)
    if done.returncode != 0:
        raise DiskNotMade(f"{program} ended with status {done.returncode} while packing {path}")
    return packed


def _compress_stream(command: list[str], source: BinaryIO, share: int, target: BinaryIO) -> None:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=target.fileno()) as xz:
        assert xz.stdin is not None
        while share > 0 and (chunk := source.read(min(share, MIB))):
            xz.stdin.write(chunk)
            share -= len(chunk)
        xz.stdin.close()
    if xz.returncode != 0:
        raise DiskNotMade(f"xz ended with status {xz.returncode} while packing {source.name}")


def _make_ext4(
    image: Path,
    offset: int,
    size: int,
    root_uuid: uuid.UUID,
    tree: Mapping[str, bytes],
    links: Mapping[str, str],
) -> None:
    """Make an ext4 at `offset` with these files, all root's: debugfs writes in a fixed order."""
    extended = f"offset={offset},hash_seed={root_uuid},root_owner=0:0,nodiscard"
    mke2fs = ["mke2fs", "-q", "-F", "-t", "ext4", "-O", _FEATURES, "-E", extended, "-m", "1"]
    blocks = ["-b", "4096", "-I", "256", "-L", "fedora", "-U", str(root_uuid)]
    _e2fsprogs([*mke2fs, *blocks, str(image), f"{size // 1024}k"])
    with tempfile.TemporaryDirectory(dir=image.parent) as folder:
        commands = [f"mkdir {directory}" for directory in _directories([*tree, *links])]
        for number, (name, content) in enumerate(sorted(tree.items())):
            native = Path(folder, str(number))
            native.write_bytes(content)
            native.chmod(0o644)
            commands.append(f'write "{native}" {name}')
        for name, target in sorted(links.items()):
            commands += [
                f"cd {name.rpartition('/')[0]}",
                f"symlink {name.rpartition('/')[2]} {target}",
            ]
        script = Path(folder, "commands")
        script.write_text("\n".join(commands) + "\n")
        _e2fsprogs(["debugfs", "-w", "-f", str(script), f"{image}?offset={offset}"])


def _directories(paths: Iterable[str]) -> list[str]:
    """Every directory above `paths`, those further up first."""
    return sorted({str(above) for path in paths for above in Path(path).parents} - {"/"})


def _e2fsprogs(command: list[str]) -> None:
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C",
        "E2FSPROGS_FAKE_TIME": _TIME,
        "SOURCE_DATE_EPOCH": _TIME,
        # The host's own mke2fs.conf would add features of its time.
        "MKE2FS_CONFIG": os.devnull,
    }
    program, *arguments = command
    done = subprocess.run(
        [path_of(program), *arguments], capture_output=True, text=True, env=environment
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("debugfs 1.")]
    # debugfs ends with 0 whatever went wrong, and says what; mke2fs also warns.
    if done.returncode != 0 or (program == "debugfs" and said):
        raise DiskNotMade(f"{' '.join(command)}: status {done.returncode}: {' / '.join(said)}")


def boot_sector(
    code: bytes, rows: Sequence[bytes], disk_uuid: uuid.UUID, *, signed: bool = True
) -> bytes:
    """Return a master boot record; no BIOS starts one that is not signed."""
    identity = disk_uuid.bytes[:4] + b"\0\0"
    end = b"\x55\xaa" if signed else b"\0\0"
    return code.ljust(440, b"\0") + identity + b"".join(rows).ljust(64, b"\0") + end


def mbr_row(*, active: bool, kind: int, first: int, count: int) -> bytes:
    # Cylinders and heads say nothing on a disk of today: these are "beyond".
    beyond = b"\xfe\xff\xff"
    head = struct.pack("<B3sB3s", 0x80 if active else 0, beyond, kind, beyond)
    return head + struct.pack("<II", first, min(count, 0xFFFFFFFF))


def partition_uuid(disk_uuid: uuid.UUID, first: int) -> uuid.UUID:
    """Return the UUID that `write_gpt` gives to the partition that begins at sector `first`."""
    return uuid.uuid5(disk_uuid, str(first))


def write_gpt(
    file: BinaryIO,
    sectors: int,
    partitions: Sequence[tuple[uuid.UUID, int, int]],
    code: bytes,
    disk_uuid: uuid.UUID,
) -> None:
    """Write a GPT at both ends of the disk; `partitions` are (type, first sector, last sector)."""
    entries = b"".join(
        kind.bytes_le
        + partition_uuid(disk_uuid, first).bytes_le
        + struct.pack("<QQQ72x", first, last, 0)
        for kind, first, last in partitions
    ).ljust(_GPT_ENTRIES * 128, b"\0")
    protective = mbr_row(active=False, kind=0xEE, first=1, count=sectors - 1)
    end = sectors - 1
    spare = end - _GPT_ENTRY_SECTORS
    file.seek(0)
    file.write(boot_sector(code, [protective], disk_uuid))
    file.write(_gpt_header(1, end, 2, spare - 1, entries, disk_uuid))
    file.write(entries)
    file.seek(spare * SECTOR)
    file.write(entries)
    file.write(_gpt_header(end, 1, spare, spare - 1, entries, disk_uuid))


def _gpt_header(
    here: int, other: int, entries_at: int, last_usable: int, entries: bytes, disk_uuid: uuid.UUID
) -> bytes:
    first_usable = 2 + _GPT_ENTRY_SECTORS

    def header(checksum: int) -> bytes:
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            b"EFI PART",
            0x10000,
            92,
            checksum,
            0,
            here,
            other,
            first_usable,
            last_usable,
            disk_uuid.bytes_le,
            entries_at,
            _GPT_ENTRIES,
            128,
            zlib.crc32(entries),
        )

    return header(zlib.crc32(header(0))).ljust(SECTOR, b"\0")
