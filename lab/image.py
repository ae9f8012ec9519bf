"""Builds the cloud image that virtual machines boot, from Debian's packages, without root.

What goes into it is in `lab/recipe`; this makes a disk of that which boots by BIOS, by UEFI and, as
its menu.lst says, by PV-GRUB, and keeps it in a cache.
"""

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import debian, grub
from lab.debian import RECIPE, Release
from lab.disk import MIB, SECTOR, DiskNotMade, boot_sector, compress, mbr_row
from lab.fat import efi_system
from lab.machines.programs import MissingProgram, require
from lab.running import SiteError
from lab.turns import in_turn

# Room for what the recipe installs, and a fifth of it free.
IMAGE_MIB = 320
# The EFI system partition comes first on the disk and second in its table: PV-GRUB looks into the
# table's first entry, and only a partition at the disk's end can grow with its volume.
_EFI_AT = MIB
_EFI_BYTES = 4 * MIB
ROOT_AT = _EFI_AT + _EFI_BYTES

# Packed in blocks of this size, an image is unpacked by as many threads as a machine has. A higher
# level takes minutes to make, and little off.
_BLOCK = 16 * MIB
_LEVEL = 2

_NAMESPACE = uuid.UUID("9d0d6c2e-3f43-4a52-8f1c-2f7a0a8f5b11")

_PROGRAMS = ("mmdebstrap", "mke2fs", "grub-mkimage", "xz")
_MADE_BY = ("image.py", "debian.py", "grub.py")


@dataclass(frozen=True)
class Image:
    """One built image: as it is, as Koji would serve it, and its kernel by itself."""

    raw: Path
    packed: Path
    kernel: Path

    @classmethod
    def within(cls, folder: Path) -> "Image":
        """Return their paths in `folder`."""
        return cls(folder / "image.raw", folder / "image.raw.xz", folder / "vmlinuz")


def cache() -> Path:
    """Return the folder of images: the user's own cache, so that no build folder has them."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedimg-lab"


def image(say: Callable[[str], None] = lambda text: None) -> Image:
    """Return the image of this recipe; build it, and tell `say` so, unless the cache has it.

    Raises MissingProgram or DiskNotMade.
    """
    release = debian.release()
    folder = cache() / _key(release.codename)
    with in_turn(folder):
        if not folder.exists():
            _require()
            say(f"building a cloud image from {release.codename}'s packages, once: some minutes")
            # Under its name only when it is whole.
            new = folder.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            _build(Image.within(new), release)
            new.rename(folder)
    return Image.within(folder)


def run(arguments: argparse.Namespace) -> int:
    """`python -m lab image`."""
    began = time.monotonic()
    try:
        made = image(lambda text: print(text, file=sys.stderr, flush=True))
    except (DiskNotMade, MissingProgram) as error:
        raise SiteError(str(error)) from error
    seconds = time.monotonic() - began
    size = made.packed.stat().st_size / MIB
    print(f"{made.packed}: {size:.0f} MiB of {IMAGE_MIB}, after {seconds:.0f} s")
    return 0


def _require() -> None:
    require(_PROGRAMS)
    if os.geteuid() != 0:
        require(["newuidmap"])
    grub.require()


def _build(made: Image, release: Release) -> None:
    identity = uuid.uuid5(_NAMESPACE, "disk")
    root_uuid = uuid.uuid5(_NAMESPACE, "root")
    root_bytes = IMAGE_MIB * MIB - ROOT_AT
    start = grub.Start(str(root_uuid))
    with tempfile.TemporaryDirectory(prefix="lab-image-") as name:
        # Without root, mmdebstrap works as a user of its own, who must find the way here and back.
        work = Path(name)
        work.chmod(0o777)
        recipe = debian.recipe(work)
        disk = work / "disk"
        with disk.open("wb") as file:
            file.truncate(IMAGE_MIB * MIB)
            core = grub.core(work, "i386-pc", start, "biosdisk")
            file.write(_first_sector(root_bytes, identity))
            # GRUB's boot sector loads what follows it.
            file.write(core)
            assert file.tell() <= _EFI_AT
            file.seek(_EFI_AT)
            loader = grub.core(work, "x86_64-efi", start, "fat")
            file.write(efi_system(_EFI_BYTES, "BOOTX64.EFI", loader))
        disk.chmod(0o666)
        part_uuid = f"{int.from_bytes(identity.bytes[:4], 'little'):08x}-01"
        furnish = f'{recipe / "furnish.sh"} "$1" {disk} {root_uuid} {part_uuid}'
        ext4 = f'{recipe / "ext4.sh"} "$1" {disk} {ROOT_AT} {root_bytes // 1024} {root_uuid}'
        debian.install(
            release,
            work,
            packages=(RECIPE / "packages").read_text().split(),
            unpacked=(RECIPE / "unpacked").read_text().splitlines(),
            root=recipe / "root",
            finish=[furnish, ext4],
        )
        shutil.copyfile(f"{disk}.vmlinuz", made.kernel)
        debian.run(["cp", "--sparse=always", str(disk), str(made.raw)], work)
    compress(made.raw, block_size=_BLOCK, level=_LEVEL)


def _first_sector(root_bytes: int, identity: uuid.UUID) -> bytes:
    root = mbr_row(active=True, kind=0x83, first=ROOT_AT // SECTOR, count=root_bytes // SECTOR)
    efi = mbr_row(active=False, kind=0xEF, first=_EFI_AT // SECTOR, count=_EFI_BYTES // SECTOR)
    return boot_sector(grub.boot_code(), [root, efi], identity)


def _key(codename: str) -> str:
    here = Path(__file__).parent
    files = [here / name for name in _MADE_BY]
    files += sorted(path for path in RECIPE.rglob("*") if path.is_file())
    digest = hashlib.sha256(codename.encode())
    for path in files:
        digest.update(f"\0{path.relative_to(here)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
