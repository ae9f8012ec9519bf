"""Creates the files of builds in the lab's Koji."""

from pathlib import Path

NAME, VERSION, RELEASE = "Fedora-Cloud-Base", "28", "1.1"


def files(
    folder: Path, name: str = NAME, arches: tuple[str, ...] = ("x86_64",)
) -> dict[str, list[Path]]:
    """Create one image file for each architecture; return the files by architecture."""
    created = {}
    for arch in arches:
        path = folder / f"{name}-{VERSION}-{RELEASE}.{arch}.raw.xz"
        path.write_bytes(path.name.encode())
        created[arch] = [path]
    return created
