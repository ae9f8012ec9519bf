"""Judges from a root disk's bytes whether a machine boots from it, and what its console says."""

from dataclasses import dataclass
from pathlib import Path

from lab.machines import filesystems, menu_lst
from lab.machines.filesystems import FileSystem
from lab.machines.menu_lst import Entry
from lab.machines.partitions import Table, read_table

_MENUS = ("/boot/grub/menu.lst", "/boot/grub/grub.conf", "/grub/menu.lst", "/grub/grub.conf")
# The first is usually a link to the second, and debugfs follows no link at a path's end.
_OS_RELEASES = ("/usr/lib/os-release", "/etc/os-release")
_ROOT_KINDS = ("ext", "xfs", "btrfs")


@dataclass(frozen=True)
class Verdict:
    """`boots`, what the console shows up to the kernel's last word, and the image's os-release."""

    boots: bool
    console: tuple[str, ...]
    os_release: str | None = None


def judge(
    disk: Path | None, *, architecture: str, virtualization_type: str, boot_mode: str
) -> Verdict:
    """Judge what becomes of a machine that is switched on with `disk` as its root.

    Lines that begin with `lab:` are no machine's own; they say what a person would look for.
    """
    if architecture not in ("x86_64", "i386"):
        return _no(f"lab: no {architecture} machine runs here: this instance never boots")
    if disk is None:
        return _no("Booting from Hard Disk...", "lab: the instance has no root volume")
    table = read_table(disk)
    if virtualization_type == "paravirtual":
        found = pv_grub(disk)
        if isinstance(found, Verdict):
            return found
        return _mount(found.root, _os_release(found.root), found.console)
    if boot_mode in ("uefi", "uefi-preferred"):
        if _efi_system(disk, table):
            return _root(disk, table, ("BdsDxe: starting Boot0001 from the EFI system partition",))
        if boot_mode == "uefi":
            return _no(
                "BdsDxe: No bootable option or device was found.",
                "lab: the disk has no EFI system partition with a FAT file system",
            )
    return _bios(disk, table)


def _bios(disk: Path, table: Table) -> Verdict:
    said = ("SeaBIOS", "Booting from Hard Disk...")
    if not table.signed:
        return _no(
            *said,
            "Boot failed: not a bootable disk",
            "",
            "No bootable device.",
            "lab: the disk's first sector does not end in 55 AA",
        )
    # A boot sector's code is not run here, so one that only marks its disk as bootable will do;
    # but a disk that was made for UEFI has nothing that a BIOS could start.
    if not table.boot_code and _efi_system(disk, table):
        return _no(*said, "lab: the disk is made for UEFI: its boot sector holds no code")
    return _root(disk, table, (*said, "GRUB loading."))


def _root(disk: Path, table: Table, said: tuple[str, ...]) -> Verdict:
    """From the boot loader to the mounted root file system."""
    if not table.partitions:
        return _no(
            *said,
            "error: no such partition.",
            "Entering rescue mode...",
            "grub rescue>",
            "lab: the disk has no partition table, or an empty one",
        )
    found = [filesystems.recognise(disk, p.offset) for p in table.partitions]
    systems = [s for s in found if s is not None and s.kind in _ROOT_KINDS]
    if not systems:
        return _no(
            *said,
            "error: unknown filesystem.",
            "Entering rescue mode...",
            "grub rescue>",
            "lab: none of the disk's partitions holds ext2, ext3, ext4, xfs or btrfs",
        )
    releases = [(system, _os_release(system)) for system in systems]
    # The system is on the file system that has an os-release; a /boot of its own has none. With
    # xfs and btrfs, which nothing here can read, it is the last: /boot comes before the root.
    root, release = next(((s, r) for s, r in releases if r is not None), releases[-1])
    return _mount(root, release, said)


def _mount(root: FileSystem, release: str | None, said: tuple[str, ...]) -> Verdict:
    if root.kind == "ext":
        wrong = filesystems.complaint(root)
        if wrong is not None:
            return _no(
                *said,
                f"EXT4-fs error: {wrong}",
                "VFS: Unable to mount root fs",
                "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
                f"lab: the root file system {root.uuid} is damaged, by e2fsck -n",
            )
    mounted = f"{root.kind}: mounted root file system {root.uuid}"
    return Verdict(boots=True, console=(*said, mounted), os_release=release)


@dataclass(frozen=True)
class Found:
    """The kernel that PV-GRUB boots: an entry of a menu.lst, from the file system of both."""

    root: FileSystem
    entry: Entry
    console: tuple[str, ...]


def pv_grub(disk: Path) -> Found | Verdict:
    """Return the entry that PV-GRUB finds on `disk`, or the verdict that it does not boot."""
    table = read_table(disk)
    said = ("Xen Minimal OS!", "PV-GRUB: GRUB 0.97")
    root = filesystems.recognise(disk, 0)
    if table.kind == "gpt":
        return _no(*said, "Error 22: No such partition", "lab: GRUB 0.97 cannot read a GPT")
    if root is None and table.partitions:
        root = filesystems.recognise(disk, table.partitions[0].offset)
    if root is None:
        return _no(
            *said,
            "Error 17: Cannot mount selected partition",
            "grubdom>",
            "lab: neither the whole disk nor its first partition holds a file system",
        )
    if root.kind != "ext":
        return _no(
            *said,
            f"lab: the file system is {root.kind}, which this lab cannot look into for a menu.lst: "
            "it boots paravirtual images only from ext2, ext3 and ext4",
        )
    menu = next((m for m in (filesystems.read_file(root, path) for path in _MENUS) if m), None)
    if menu is None:
        return _no(
            *said,
            "grubdom>",
            "lab: the image has no /boot/grub/menu.lst, so PV-GRUB waits for commands for ever",
        )
    entry = menu_lst.default_entry(menu.decode(errors="replace"))
    if entry is None:
        return _no(
            *said,
            "Error 8: Kernel must be loaded before booting",
            "lab: the entry that the image's menu.lst boots names no kernel",
        )
    for path in filter(None, (entry.kernel, entry.initrd)):
        if not filesystems.holds_file(root, path):
            return _no(
                *said,
                "Error 15: File not found",
                f"lab: menu.lst names {path}, which the image does not have",
            )
    return Found(root, entry, (*said, f"Booting {entry.kernel}"))


def _efi_system(disk: Path, table: Table) -> bool:
    found = [filesystems.recognise(disk, p.offset) for p in table.partitions if p.efi_system]
    return any(system is not None and system.kind == "vfat" for system in found)


def _os_release(system: FileSystem) -> str | None:
    if system.kind != "ext":
        return None
    read = (filesystems.read_file(system, path) for path in _OS_RELEASES)
    return next((text.decode(errors="replace") for text in read if text), None)


def _no(*console: str) -> Verdict:
    return Verdict(boots=False, console=console)
