"""Builds the images of lab.shapes, one at a time, and keeps them in the lab's cache."""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import debian, grub
from lab.disk import MIB, SECTOR, DiskNotMade, compress, partition_uuid, write_gpt
from lab.fat import efi_system
from lab.image import cache
from lab.machines.partitions import EFI_SYSTEM
from lab.machines.programs import require
from lab.shapes import SHAPES, Shape
from lab.turns import in_turn

_NAMESPACE = uuid.UUID("0c4b1d5e-5be8-4f5e-9f3b-8f4d1f1f6f0a")
_BIOS_BOOT = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
_LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
# Packed for speed: an image is unpacked once or twice.
_BLOCK, _LEVEL = 16 * MIB, 0
_FAT_SERIAL = "2018-0501"
# A cloud kernel of arm64 sees the console of QEMU's board, and of EC2's, by itself; x86's does not.
_CONSOLES = {"x86_64": "console=ttyS0,115200n8", "aarch64": "console=ttyAMA0"}
_SERIAL = """\
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
"""
_MENU = """\
linux {folder}/vmlinuz-@RELEASE@ root={root} {arguments} {console} no_timer_check \
mitigations=off quiet SYSTEMD_SECCOMP=0 systemd.show_status=yes
initrd {folder}/initrd.img-@RELEASE@
boot
"""
# An emulated machine with others beside it takes ten minutes to find its disks and its network, for
# which systemd waits a minute or two.
_PATIENT = "1200s"
_WAIT = "systemd-networkd-wait-online"
_PATIENCE = {
    "etc/systemd/system.conf.d/patience.conf": (
        f"[Manager]\nDefaultTimeoutStartSec={_PATIENT}\nDefaultDeviceTimeoutSec={_PATIENT}\n"
    ),
    f"etc/systemd/system/{_WAIT}.service.d/patience.conf": (
        f"[Service]\nExecStart=\nExecStart=/lib/systemd/{_WAIT} --timeout=1200\n"
    ),
}
_PROGRAMS = {
    "ext4": ("mke2fs",),
    "btrfs": ("mke2fs", "mkfs.btrfs", "losetup", "mount"),
    "xfs": ("mke2fs", "mkfs.xfs", "losetup", "mount"),
}


@dataclass(frozen=True)
class Built:
    """One built image: as it is, and as Koji would serve it."""

    raw: Path
    packed: Path


@dataclass(frozen=True)
class _Layout:
    """The places of a shape's partitions on its disk, as (first byte, bytes), and their UUIDs."""

    bios: tuple[int, int] | None
    efi: tuple[int, int] | None
    boot: tuple[int, int] | None
    root: tuple[int, int]
    disk_uuid: uuid.UUID
    root_uuid: str
    boot_uuid: str

    @property
    def root_part(self) -> uuid.UUID:
        """Return the UUID of the root's partition."""
        return partition_uuid(self.disk_uuid, self.root[0] // SECTOR)

    @classmethod
    def of(cls, shape: Shape, name: str) -> "_Layout":
        at = MIB

        def take(mib: int) -> tuple[int, int] | None:
            nonlocal at
            place = (at, mib * MIB) if mib else None
            at += mib * MIB
            return place

        bios = take(1 if shape.bios else 0)
        efi = take(4 if shape.uefi else 0)
        boot = take(128 if shape.own_boot else 0)
        # The second copy of the table is in the last MiB.
        root = (at, (shape.mib - 1) * MIB - at)
        ids = [str(uuid.uuid5(_NAMESPACE, f"{name} {part}")) for part in ("root", "boot")]
        return cls(bios, efi, boot, root, uuid.uuid5(_NAMESPACE, f"{name} disk"), *ids)

    def rows(self) -> list[tuple[uuid.UUID, int, int]]:
        """Return the table's rows: type, first and last sector."""
        kinds = [(_BIOS_BOOT, self.bios), (EFI_SYSTEM, self.efi), (_LINUX, self.boot)]
        return [
            (kind, place[0] // SECTOR, sum(place) // SECTOR - 1)
            for kind, place in [*kinds, (_LINUX, self.root)]
            if place is not None
        ]


def image(name: str, say: Callable[[str], None] = lambda text: None) -> Built:
    """Return the image of a shape; build it, and tell `say` so, unless the cache has it.

    Raises MissingProgram or DiskNotMade.
    """
    shape, release = SHAPES[name], debian.release()
    folder = cache() / f"{name}-{_key(name, release.codename)}"
    with in_turn(folder):
        if not folder.exists():
            _require(shape)
            say(f"building an image of shape {name}, {shape.what}, once: some minutes")
            new = folder.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            _build(name, shape, release, new / "image.raw")
            new.rename(folder)
    return Built(folder / "image.raw", folder / "image.raw.xz")


def _require(shape: Shape) -> None:
    """Raise MissingProgram or DiskNotMade when this host cannot make a shape."""
    require(["mmdebstrap", "grub-mkimage", "xz", *_PROGRAMS[shape.system]])
    if not shape.arm:
        grub.require()
    if shape.system != "ext4" and os.geteuid() != 0:
        raise DiskNotMade(
            f"{shape.system} is filled by a loop mount, which only root may make: run as root"
        )


def _build(name: str, shape: Shape, release: debian.Release, raw: Path) -> None:
    layout = _Layout.of(shape, name)
    with tempfile.TemporaryDirectory(prefix=f"lab-{name}-") as folder:
        work = Path(folder)
        work.chmod(0o777)
        recipe, disk = debian.recipe(work), work / "disk"
        scripts = work / "scripts"
        shutil.copytree(Path(__file__).parent, scripts, ignore=shutil.ignore_patterns("*.py*"))
        _configure(recipe / "root", shape, layout)
        debian.open_to_all(recipe)
        debian.open_to_all(scripts)
        with disk.open("wb") as file:
            file.truncate(shape.mib * MIB)
        disk.chmod(0o666)
        debian.install(
            release,
            work,
            packages=_packages(shape),
            unpacked=_unpacked(shape),
            root=recipe / "root",
            finish=_finish(shape, layout, work),
            second="arm64" if shape.arm else "",
        )
        _make_bootable(disk, shape, layout, work)
        debian.run(["cp", "--sparse=always", str(disk), str(raw)], work)
    compress(raw, block_size=_BLOCK, level=_LEVEL)


def _configure(root: Path, shape: Shape, layout: _Layout) -> None:
    """Write what the boot loader and systemd are told of the disk."""
    subvolumes = shape.system == "btrfs"
    menu = _MENU.format(
        folder="" if shape.own_boot else "/boot",
        # Without an initramfs the kernel knows no file systems, but partitions.
        root=f"PARTUUID={layout.root_part}" if shape.arm else f"UUID={layout.root_uuid}",
        arguments=f"ro {shape.arguments}".strip(),
        console=_CONSOLES[shape.architecture],
    )
    (root / "boot/grub/grub.cfg").write_text(menu if shape.arm else _SERIAL + menu)
    # PV-GRUB reads no GPT.
    (root / "boot/grub/menu.lst").write_text("")
    options = "subvol=root,noatime" if subvolumes else "defaults,noatime"
    late = f"x-systemd.device-timeout={_PATIENT}"
    rows = [f"UUID={layout.root_uuid} / {shape.system} {options} 0 0"]
    if subvolumes:
        rows.append(f"UUID={layout.root_uuid} /home btrfs subvol=home,noatime,{late} 0 0")
    if shape.own_boot:
        rows.append(f"UUID={layout.boot_uuid} /boot ext4 defaults,{late} 0 2")
    if shape.own_boot and shape.uefi:
        rows.append(f"UUID={_FAT_SERIAL} /boot/efi vfat umask=0077,{late} 0 0")
        (root / "boot/efi").mkdir()
    (root / "etc/fstab").write_text("".join(f"{row}\n" for row in rows))
    for place, text in _PATIENCE.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(text)


def _packages(shape: Shape) -> list[str]:
    packages = (debian.RECIPE / "packages").read_text().split()
    if "dracut" in shape.packages:
        packages.remove("initramfs-tools")
    return [*packages, *shape.packages]


def _unpacked(shape: Shape) -> list[str]:
    lines = (debian.RECIPE / "unpacked").read_text().splitlines()
    return lines + [f"path-include=/lib/modules/*/kernel/{each}" for each in shape.modules]


def _finish(shape: Shape, layout: _Layout, work: Path) -> list[str]:
    """Return the lines that mmdebstrap runs when the packages are in place."""
    recipe, scripts, disk = work / "recipe", work / "scripts", work / "disk"
    lines = [f'{recipe}/furnish.sh "$1" {disk} {layout.root_uuid} none']
    if shape.arm:
        # Before what it downloads with is tidied away.
        lines.insert(0, f'{scripts}/arm64_packages.sh "$1" {work}')
        lines.append(f'{scripts}/arm64.sh "$1" {work}')
    if layout.boot is not None:
        at, size = layout.boot
        lines.append(f'{scripts}/own_boot.sh "$1" {disk} {at} {size // 1024} {layout.boot_uuid}')
    at, size = layout.root
    if shape.system == "ext4":
        lines.append(f'{recipe}/ext4.sh "$1" {disk} {at} {size // 1024} {layout.root_uuid}')
    else:
        command = f'{scripts}/{shape.system}.sh "$1" {disk} {at} {size} {layout.root_uuid}'
        lines.append(command)
    return lines


def _make_bootable(disk: Path, shape: Shape, layout: _Layout, work: Path) -> None:
    """Write partition table and boot loaders around the file systems."""
    if shape.own_boot:
        start = grub.Start(layout.boot_uuid, "/grub/grub.cfg")
    else:
        start = grub.Start(layout.root_uuid)
    modules = ["part_gpt"]
    code = b""
    with disk.open("r+b") as file:
        if layout.bios is not None:
            at, size = layout.bios
            core = grub.core(work, "i386-pc", start, "biosdisk", *modules)
            assert len(core) <= size
            code, core = grub.placed(grub.boot_code(), core, at // SECTOR)
            file.seek(at)
            file.write(core)
        if layout.efi is not None:
            at, size = layout.efi
            file.seek(at)
            file.write(_efi_system(shape, size, start, work, modules))
        write_gpt(file, shape.mib * MIB // SECTOR, layout.rows(), code, layout.disk_uuid)


def _efi_system(
    shape: Shape, size: int, start: grub.Start, work: Path, modules: list[str]
) -> bytes:
    if shape.arm:
        folder = work / "modules/usr/lib/grub/arm64-efi"
        loader = grub.core(work, "arm64-efi", start, "fat", *modules, folder=folder)
        return efi_system(size, "BOOTAA64.EFI", loader)
    loader = grub.core(work, "x86_64-efi", start, "fat", *modules)
    return efi_system(size, "BOOTX64.EFI", loader)


def _key(name: str, codename: str) -> str:
    here = Path(__file__).parent
    files = [here.parent / each for each in ("debian.py", "grub.py", "fat.py")]
    files.append(Path(__file__))
    files += sorted([*debian.RECIPE.rglob("*"), *here.glob("*.sh")])
    digest = hashlib.sha256(f"{codename} {SHAPES[name]}".encode())
    for path in filter(Path.is_file, files):
        digest.update(f"\0{path.relative_to(here.parent)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
