"""A disk image of real files, this machine's own programs and libraries, packed as Koji packs."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.results import RESULTS
from lab import disk
from lab.machines.programs import path_of

MIB = 1024 * 1024
#: Where there are files like those of a cloud image; taken in this order until the disk is full.
_SOURCES = ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/share", "/usr/libexec", "/usr/include")
#: How much of the disk is files; in a cloud image the rest is empty, too.
_FULL = 0.6
#: In bytes: what Koji makes, by `xz -z6T0` (kojid.conf, xz_options).
_BLOCK = 24 * MIB
#: xz's level. Koji's takes ten times as long to pack, and as long to unpack.
_LEVEL = 1


def packed(size_mib: int) -> dict[str, Path]:
    """Make the image's two files: `one` is a single block of .xz, `many` has a block every 24 MiB.

    They are kept, since packing a GiB takes minutes.
    """
    folder = RESULTS / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    found = {kind: folder / f"{kind}-{size_mib}.raw.xz" for kind in ("one", "many")}
    if not all(file.exists() for file in found.values()):
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            raw = _image(Path(temporary), size_mib)
            for kind, block in (("one", None), ("many", _BLOCK)):
                disk.compress(raw, block_size=block, level=_LEVEL).replace(found[kind])
    return found


def _image(folder: Path, size_mib: int) -> Path:
    tree = folder / "tree"
    room = int(size_mib * MIB * _FULL)
    for source in _files():
        size = source.stat().st_size
        # A few large ones do not make the whole of it.
        if size > room or size > size_mib * MIB // 20:
            continue
        target = tree / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        room -= size
        if room < MIB:
            break
    raw = folder / "image.raw"
    with raw.open("wb") as file:
        file.truncate(size_mib * MIB)
    command = [path_of("mke2fs"), "-q", "-F", "-t", "ext4", "-d", str(tree), str(raw)]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(tree)
    return raw


def _files() -> Iterator[Path]:
    for source in _SOURCES:
        for folder, folders, names in os.walk(source):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                    yield path
