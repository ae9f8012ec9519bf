"""Making an image, building it in a site's Koji, telling the bus: what a build farm would do."""

import argparse
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

from lab import disk
from lab.broken import BREAKS, Breaker
from lab.clients import BUILD_OWNERS, SCRATCH_OWNERS
from lab.image import Image
from lab.koji.announce import MODNAME
from lab.koji.builds import METHODS
from lab.machines.programs import MissingProgram
from lab.running import SiteError, call, read

# Enough for a file system with a kernel and something to check; small enough for a quick demo.
IMAGE_MIB = 64


def build_image(
    folder: Path,
    stem: str,
    architecture: str = "x86_64",
    *,
    menu_lst: bool = True,
    suffix: str = ".xz",
) -> Path:
    """Make `folder`/`stem`.raw.xz, a bootable disk; without `menu_lst` PV-GRUB finds no kernel.

    `suffix` is one of disk.PACKED, of the format to pack it in. An aarch64 one boots by UEFI, as
    they all do. Raises SiteError when this machine lacks what making it takes.
    """
    raw = folder / f"{stem}.raw"
    try:
        disk.make_image(
            raw,
            size_mib=IMAGE_MIB,
            menu_lst=menu_lst,
            uefi=architecture == "aarch64",
            architecture=architecture,
            # Two builds never have the same bytes; the same one made again has.
            seed=crc32(stem.encode()),
        )
        return disk.packed_as(raw, suffix)
    except (disk.DiskNotMade, MissingProgram) as error:
        raise SiteError(str(error)) from error
    finally:
        if suffix:
            raw.unlink(missing_ok=True)


def corrupt(path: Path) -> None:
    """Overwrite bytes in the middle of a file: its size stays, its checksum does not."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\0" * 512)


def take_options(command: argparse.ArgumentParser) -> None:
    """Have a command take what `run` goes by."""
    command.add_argument("--name", default="Fedora-Cloud-Base")
    command.add_argument("--version", default="43")
    command.add_argument("--release", default=time.strftime("%Y%m%d.%H%M%S"))
    command.add_argument("--arch", action="append", choices=("x86_64", "aarch64", "i386"))
    command.add_argument("--owner", help="default: one that the site's fedimg accepts")
    command.add_argument("--scratch", action="store_true", help="a scratch task, not a build")
    command.add_argument("--method", choices=METHODS, default="image")
    command.add_argument("--image", type=Path, help="a .raw.xz; default: a small one is made")
    command.add_argument(
        "--format",
        choices=[f"raw{suffix}" for suffix in disk.PACKED],
        default="raw.xz",
        help="that of the image that is made",
    )
    command.add_argument(
        "--broken", choices=BREAKS, help="the image of a site of virtual machines, broken"
    )
    command.add_argument("--pv", action=argparse.BooleanOptionalAction, default=True)
    command.add_argument("--corrupt", action="store_true", help="damage it after it is built")
    command.add_argument("--repeat", type=int, default=1, help="send the message so many times")
    command.add_argument(
        "--silent", action="store_true", help="send no message: the bus has lost it, say"
    )


def run(arguments: argparse.Namespace) -> int:
    """`python -m lab announce`."""
    site = read(arguments.state)
    owner = arguments.owner or (SCRATCH_OWNERS if arguments.scratch else BUILD_OWNERS)[0]
    nvr = f"{arguments.name}-{arguments.version}-{arguments.release}"
    with tempfile.TemporaryDirectory() as made:
        files = {
            arch: [str(_image(arguments, site, Path(made), f"{nvr}.{arch}", arch))]
            for arch in arguments.arch or ["x86_64"]
        }
        added = call(
            site,
            "koji.add_task" if arguments.scratch else "koji.add_build",
            name=arguments.name,
            version=arguments.version,
            release=arguments.release,
            owner=owner,
            method=arguments.method,
            files=files,
        )
    for path in map(Path, added["paths"]):
        if arguments.corrupt and ".raw" in path.name:
            corrupt(path)
    times = 0 if arguments.silent else arguments.repeat
    if times:
        call(
            site,
            "bus.publish",
            topic=added["topic"],
            message=added["message"],
            modname=MODNAME,
            times=times,
        )
    print(f"{'task' if arguments.scratch else 'build'} {added['id']} ({nvr}) by {owner}:")
    for url in added["urls"]:
        print(f"  {url}")
    print(f"told the bus: {MODNAME}.{added['topic']}, {times} time(s)")
    return 0


def pass_time(arguments: argparse.Namespace) -> int:
    """`python -m lab clock`."""
    now = call(read(arguments.state), "koji.advance", seconds=arguments.advance)
    print(f"it is {datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ} at Koji")
    return 0


def _image(
    arguments: argparse.Namespace,
    site: Mapping[str, Any],
    folder: Path,
    stem: str,
    architecture: str,
) -> Path:
    """Return an image under the name that Koji would have given it, whoever made it.

    On a site of virtual machines that is by default one which really boots.
    """
    made = arguments.image
    if arguments.broken is not None:
        if site["image"] is None:
            raise SiteError("--broken takes a site of virtual machines: python -m lab up --vm")
        image = Image.within(Path(site["image"]).parent)
        try:
            packed = Breaker(image).make(arguments.broken, folder)
            return packed.rename(folder / f"{stem}.raw.xz")
        except (disk.DiskNotMade, MissingProgram) as error:
            raise SiteError(str(error)) from error
    packed_by_xz = arguments.format == "raw.xz"
    if (
        made is None
        and site["image"]
        and architecture == "x86_64"
        and arguments.pv
        and packed_by_xz
    ):
        made = Path(site["image"])
    if made is None:
        suffix = arguments.format.removeprefix("raw")
        return build_image(folder, stem, architecture, menu_lst=arguments.pv, suffix=suffix)
    return named(made, folder, stem)


def named(made: Path, folder: Path, stem: str) -> Path:
    """`made` under another name, `folder`/`stem`.raw.xz."""
    link = folder / f"{stem}.raw.xz"
    link.symlink_to(made.resolve(strict=True))
    return link
