"""Makes GRUB's images for BIOS and UEFI, which go on with a grub.cfg of a file system."""

import struct
from dataclasses import dataclass
from pathlib import Path

from lab import debian
from lab.machines.programs import MissingProgram, path_of

FOLDER = Path("/usr/lib/grub")
_PACKAGES = {
    "i386-pc": ("grub-pc-bin", "grub2-pc-modules"),
    "x86_64-efi": ("grub-efi-amd64-bin", "grub2-efi-x64-modules"),
}
_MODULES = "part_msdos ext2 search search_fs_uuid normal configfile serial terminal linux"
_START = """\
search --no-floppy --fs-uuid --set=root {uuid}
configfile {config}
"""
_SECTOR = 512
# GRUB, include/grub/i386/pc/boot.h: where the boot sector says in which sector the rest begins;
# and the list of sectors at the end of that one, of which it loads the others.
_KERNEL_SECTOR = 0x5C
_BLOCK_LIST = _SECTOR - 12


def require(platforms: tuple[str, ...] = tuple(_PACKAGES)) -> None:
    """Raise MissingProgram unless GRUB's modules for these platforms are installed."""
    for platform in platforms:
        debian_name, fedora_name = _PACKAGES[platform]
        if not (FOLDER / platform).is_dir():
            raise MissingProgram(
                f"the lab needs GRUB's modules for {platform}, which are not installed: "
                f"`apt install {debian_name}` on Debian, `dnf install {fedora_name}` on Fedora"
            )


@dataclass(frozen=True)
class Start:
    """The place of grub.cfg: a file system by its UUID, and a path in it."""

    uuid: str
    config: str = "/boot/grub/grub.cfg"


def core(
    work: Path, platform: str, start: Start, *modules: str, folder: Path | None = None
) -> bytes:
    """Make a GRUB that goes on with a grub.cfg; `folder` has its modules where this host's has not.

    Raises DiskNotMade.
    """
    config, made = work / "start.cfg", work / f"grub-{platform}"
    config.write_text(_START.format(uuid=start.uuid, config=start.config))
    options = [f"--format={platform}", f"--output={made}", f"--config={config}"]
    if folder is not None:
        options.append(f"--directory={folder}")
    words = [path_of("grub-mkimage"), *options, "--prefix=/boot/grub"]
    debian.run([*words, *modules, *_MODULES.split()], work)
    return made.read_bytes()


def boot_code() -> bytes:
    """Return what a boot sector has before its partitions: it loads the sectors that follow it."""
    return (FOLDER / "i386-pc" / "boot.img").read_bytes()[:440]


def placed(code: bytes, core: bytes, sector: int) -> tuple[bytes, bytes]:
    """Return boot code and core for a core that begins at `sector`, such as a BIOS boot's."""
    code = code[:_KERNEL_SECTOR] + struct.pack("<Q", sector) + code[_KERNEL_SECTOR + 8 :]
    core = core[:_BLOCK_LIST] + struct.pack("<Q", sector + 1) + core[_BLOCK_LIST + 8 :]
    return code, core
