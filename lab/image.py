"""Builds the cloud image that virtual machines boot, from Debian's packages, without root.

What goes into it is in `lab/recipe`; this makes a disk of that which boots by BIOS, by UEFI and, as
its menu.lst says, by PV-GRUB, and keeps it in a cache.
"""

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.disk import MIB, SECTOR, DiskNotMade, boot_sector, compress, mbr_row
from lab.fat import efi_system
from lab.machines.programs import SEARCH_PATH, MissingProgram, path_of, require
from lab.running import SiteError
from lab.turns import in_turn

RECIPE = Path(__file__).parent / "recipe"

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
_TIME = "1700000000"
# The image's release where the lab's machine is not Debian itself.
_CODENAME = "bookworm"

_PROGRAMS = ("mmdebstrap", "mke2fs", "grub-mkimage", "xz")
_GRUB = Path("/usr/lib/grub")
_GRUB_PACKAGES = {
    "i386-pc": ("grub-pc-bin", "grub2-pc-modules"),
    "x86_64-efi": ("grub-efi-amd64-bin", "grub2-efi-x64-modules"),
}
_GRUB_MODULES = "part_msdos ext2 search search_fs_uuid normal configfile serial terminal linux"
_GRUB_START = """\
search --no-floppy --fs-uuid --set=root {uuid}
configfile /boot/grub/grub.cfg
"""
# Of the environment; a mirror may be reached through a proxy alone.
_PASSED_ON = ("HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy")
# On a machine with two busy cores it takes two minutes; a slow mirror takes longer.
_SECONDS = 1800


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
    codename, sources = _release()
    folder = cache() / _key(codename)
    with in_turn(folder):
        if not folder.exists():
            _require()
            say(f"building a cloud image from Debian {codename}'s packages, once: some minutes")
            # Under its name only when it is whole.
            new = folder.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            _build(Image.within(new), codename, sources)
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
    for platform, (debian, fedora) in _GRUB_PACKAGES.items():
        if not (_GRUB / platform).is_dir():
            raise MissingProgram(
                f"the lab needs GRUB's modules for {platform}, which are not installed: "
                f"`apt install {debian}` on Debian, `dnf install {fedora}` on Fedora"
            )


def _build(made: Image, codename: str, sources: list[Path]) -> None:
    identity = uuid.uuid5(_NAMESPACE, "disk")
    root_uuid = uuid.uuid5(_NAMESPACE, "root")
    root_bytes = IMAGE_MIB * MIB - ROOT_AT
    with tempfile.TemporaryDirectory(prefix="lab-image-") as name:
        # Without root, mmdebstrap works as a user of its own, who must find the way here and back.
        work = Path(name)
        work.chmod(0o777)
        recipe = work / "recipe"
        shutil.copytree(RECIPE, recipe)
        for path in [recipe, *recipe.rglob("*")]:
            path.chmod(0o755 if path.is_dir() or path.suffix == ".sh" else 0o644)
        disk = work / "disk"
        with disk.open("wb") as file:
            file.truncate(IMAGE_MIB * MIB)
            start = _grub(work, "i386-pc", root_uuid, "biosdisk")
            file.write(_first_sector(root_bytes, identity))
            # GRUB's boot sector loads what follows it.
            file.write(start)
            assert file.tell() <= _EFI_AT
            file.seek(_EFI_AT)
            loader = _grub(work, "x86_64-efi", root_uuid, "fat")
            file.write(efi_system(_EFI_BYTES, "BOOTX64.EFI", loader))
        disk.chmod(0o666)
        part_uuid = f"{int.from_bytes(identity.bytes[:4], 'little'):08x}-01"
        furnish = [
            str(recipe / "furnish.sh"), '"$1"', str(disk), str(ROOT_AT),
            str(root_bytes // 1024), str(root_uuid), part_uuid,
        ]  # fmt: skip
        packages = (RECIPE / "packages").read_text().split()
        unpacked = (RECIPE / "unpacked").read_text().splitlines()
        _run(
            [
                path_of("mmdebstrap"), "--mode=auto", "--variant=essential", "--format=null",
                # The image is made by then. What is tidied is thrown away, and where the recipe has
                # emptied /tmp, with apt's configuration in it, it would be the host's apt.
                "--skip=cleanup",
                "--architectures=amd64", f"--include={','.join(packages)}",
                *(f"--dpkgopt={line}" for line in unpacked if line),
                '--aptopt=APT::Install-Recommends "false"',
                f'--essential-hook=cp -r {shlex.quote(str(recipe))}/root/. "$1"',
                f"--customize-hook={' '.join(furnish)}",
                codename, "/dev/null", *map(str, sources),
            ],
            work,
        )  # fmt: skip
        shutil.copyfile(f"{disk}.vmlinuz", made.kernel)
        _run(["cp", "--sparse=always", str(disk), str(made.raw)], work)
    compress(made.raw, block_size=_BLOCK, level=_LEVEL)


def _first_sector(root_bytes: int, identity: uuid.UUID) -> bytes:
    root = mbr_row(active=True, kind=0x83, first=ROOT_AT // SECTOR, count=root_bytes // SECTOR)
    efi = mbr_row(active=False, kind=0xEF, first=_EFI_AT // SECTOR, count=_EFI_BYTES // SECTOR)
    code = (_GRUB / "i386-pc" / "boot.img").read_bytes()[:440]
    return boot_sector(code, [root, efi], identity)


def _grub(work: Path, platform: str, root_uuid: uuid.UUID, more: str) -> bytes:
    """Make a GRUB that goes on with the grub.cfg in the root file system."""
    start = work / "start.cfg"
    start.write_text(_GRUB_START.format(uuid=root_uuid))
    core = work / f"grub-{platform}"
    options = [f"--format={platform}", f"--output={core}", f"--config={start}"]
    modules = [more, *_GRUB_MODULES.split()]
    _run([path_of("grub-mkimage"), *options, "--prefix=/boot/grub", *modules], work)
    return core.read_bytes()


def _release() -> tuple[str, list[Path]]:
    """Return the image's Debian release, and apt's lists of its packages' sources.

    Elsewhere than on Debian there are no such lists, and mmdebstrap's default holds.
    """
    about = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    if about.get("ID", "").strip('"') != "debian":
        return _CODENAME, []
    folder = Path("/etc/apt/sources.list.d")
    found = [Path("/etc/apt/sources.list"), folder / "debian.sources"]
    return about["VERSION_CODENAME"].strip('"'), [path for path in found if path.exists()]


def _key(codename: str) -> str:
    files = [Path(__file__), *sorted(path for path in RECIPE.rglob("*") if path.is_file())]
    digest = hashlib.sha256(codename.encode())
    for path in files:
        digest.update(f"\0{path.relative_to(Path(__file__).parent)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: list[str], work: Path) -> None:
    environment = {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        "PATH": SEARCH_PATH,
        "LANG": "C",
        "SOURCE_DATE_EPOCH": _TIME,
        "E2FSPROGS_FAKE_TIME": _TIME,
    }
    done = subprocess.run(
        command,
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise DiskNotMade(f"{Path(command[0]).name} ended with status {done.returncode}:\n{said}")
