"""Pungi's composes, beside Koji's files as on Fedora's server: status, metadata, and images."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from productmd.composeinfo import ComposeInfo
from productmd.images import Image, Images

# Below Koji's top folder, where its file server shows them.
LOCATION = "compose/cloud"
VARIANT, SUBVARIANT = "Cloud", "Cloud_Base"


def add_compose(
    root: Path,
    name: str,
    files: Mapping[str, Sequence[Path]],
    *,
    status: str = "FINISHED",
    kind: str = "production",
    location: str = LOCATION,
) -> Path:
    """Write a compose with the raw images of each architecture, which are copied; its folder."""
    folder = root / location / name
    metadata = folder / "compose" / "metadata"
    metadata.mkdir(parents=True)
    info, images = ComposeInfo(), Images()
    _, version, dated = name.rsplit("-", 2)
    date, *_, respin = dated.split(".")
    info.release.name, info.release.short = "Fedora-Cloud", "Fedora-Cloud"
    info.release.version, info.release.type = version, "ga"
    for compose in (info.compose, images.compose):
        compose.id, compose.type, compose.date, compose.respin = name, kind, date, int(respin)
    for arch, paths in files.items():
        for path in paths:
            images.add(VARIANT, arch, _image(images, folder, arch, path))
    info.dump(str(metadata / "composeinfo.json"))
    _dump(images, metadata / "images.json")
    (folder / "STATUS").write_text(f"{status}\n")
    return folder


def compose_message(name: str, status: str = "FINISHED", location: str = "") -> dict[str, Any]:
    """Return the body of pungi.compose.status.change; its location is whatever its sender says."""
    return {"compose_id": name, "status": status, "location": location}


def _dump(images: Images, path: Path) -> None:
    """Write images.json; productmd writes no format but `raw.xz`, so the others are told after."""
    images.dump(str(path))
    metadata = json.loads(path.read_text())
    for arches in metadata["payload"]["images"].values():
        for image in (image for of_arch in arches.values() for image in of_arch):
            image["format"] = "raw" + image["path"].rpartition(".raw")[2]
    path.write_text(json.dumps(metadata))


def _image(images: Images, folder: Path, arch: str, path: Path) -> Image:
    where = Path(VARIANT, arch, "images", path.name)
    target = folder / "compose" / where
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    image = Image(images)
    image.path, image.mtime, image.size = str(where), int(path.stat().st_mtime), path.stat().st_size
    image.type, image.format, image.arch, image.subvariant = "raw-xz", "raw.xz", arch, SUBVARIANT
    image.disc_number = image.disc_count = 1
    image.checksums = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return image
