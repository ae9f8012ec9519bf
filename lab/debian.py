"""Installs Debian's packages into a tree, of which scripts make a disk, without root."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.disk import DiskNotMade
from lab.machines.programs import SEARCH_PATH, path_of

RECIPE = Path(__file__).parent / "recipe"

_TIME = "1700000000"
# The image's release where the lab's machine is not Debian itself.
_CODENAME = "bookworm"
# Of the environment; a mirror may be reached through a proxy alone.
_PASSED_ON = ("HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy")
# On a machine with two busy cores it takes two minutes; a slow mirror takes longer.
_SECONDS = 3600


@dataclass(frozen=True)
class Release:
    """A Debian release, and apt's lists of its packages' sources; without any, its own mirror."""

    codename: str
    sources: Sequence[Path]


def release() -> Release:
    """Return the release that images are made of: this host's.

    Elsewhere than on Debian there are no such lists, and mmdebstrap's default holds.
    """
    about = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    if about.get("ID", "").strip('"') != "debian":
        return Release(_CODENAME, [])
    folder = Path("/etc/apt/sources.list.d")
    found = [Path("/etc/apt/sources.list"), folder / "debian.sources"]
    codename = about["VERSION_CODENAME"].strip('"')
    return Release(codename, [path for path in found if path.exists()])


def install(
    release: Release,
    work: Path,
    *,
    packages: Sequence[str],
    unpacked: Sequence[str],
    root: Path,
    finish: Sequence[str],
    second: str = "",
) -> None:
    """Install packages into a tree, and run the lines of `finish`, whose "$1" is the tree's path.

    `unpacked` are dpkg's options of paths that are left out; `root` is copied over the essential
    packages; apt knows the packages of a `second` architecture, too. Raises DiskNotMade.
    """
    command = [
        path_of("mmdebstrap"), "--mode=auto", "--variant=essential", "--format=null",
        # The image is made by then. What is tidied is thrown away, and where the recipe has
        # emptied /tmp, with apt's configuration in it, it would be the host's apt.
        "--skip=cleanup",
        f"--architectures={','.join(filter(None, ['amd64', second]))}",
        f"--include={','.join(packages)}",
        # What a crash would leave of the tree is thrown away.
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt={line}" for line in unpacked if line),
        '--aptopt=APT::Install-Recommends "false"',
        f'--essential-hook=cp -r {shlex.quote(str(root))}/. "$1"',
        *(f"--customize-hook={line}" for line in finish),
        release.codename, "/dev/null", *map(str, release.sources),
    ]  # fmt: skip
    run(command, work)


def open_to_all(folder: Path) -> None:
    """Let everybody read a copy of a recipe: without root, mmdebstrap is a user of its own."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path.suffix == ".sh" else 0o644)


def recipe(work: Path) -> Path:
    """Copy the lab's recipe into `work`, for everybody to read."""
    copied = work / "recipe"
    shutil.copytree(RECIPE, copied)
    open_to_all(copied)
    return copied


def run(command: Sequence[str], work: Path) -> None:
    """Run a program in `work`, where times are fixed. Raises DiskNotMade."""
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
