"""The RPMs of `make rpm`: unpacked into a root, from which a worker publishes on the lab.

Follows packaging/fedimg.spec, packaging/man-pages, packaging/source-archive.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import fedimg
from tests.system.builds import announce_build
from tests.system.deployment import AMIS, Deployment

ROOT = Path(__file__).parent.parent.parent
NAMES = {"fedimg", *(f"fedimg-{part}" for part in ["worker", "hub", "consumer", "web", "messages"])}

pytestmark = [pytest.mark.rpm, pytest.mark.process]


def run(*command: object, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(each) for each in command],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def packages() -> list[Path]:
    run("make", "rpm")
    return sorted((ROOT / "build" / "rpm" / "RPMS").glob("*/*.rpm"))


@pytest.fixture(scope="module")
def root(packages: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that stands for a machine's root, with all packages unpacked."""
    folder = tmp_path_factory.mktemp("root")
    for package in packages:
        line = 'rpm2cpio "$1" | (cd "$2" && cpio --extract --make-directories --quiet)'
        run("bash", "-euo", "pipefail", "-c", line, "bash", package, folder)
    return folder


def home(root: Path) -> Path:
    (found,) = root.glob("usr/lib*/fedimg/bin")
    return found


def test_packages_are_those_of_a_site(packages: list[Path]) -> None:
    names = {run("rpm", "--query", "--package", "--queryformat", "%{NAME}", p) for p in packages}
    assert names == NAMES
    run("rpmlint", "--config", ROOT / "packaging" / "fedimg.rpmlintrc.toml", *packages)


def test_nothing_names_the_folder_in_which_it_was_built(root: Path) -> None:
    found = subprocess.run(
        ["grep", "-rlF", "BUILDROOT", root], stdout=subprocess.PIPE, text=True, check=False
    )
    assert found.stdout == ""


def test_commands_pages_and_completions_are_there(root: Path) -> None:
    told = run(home(root) / "python", home(root) / "fedimg", "--version")
    assert told.strip() == f"fedimg {fedimg.__version__}"
    pages = list(root.glob("usr/share/man/man1/fedimg*.1.gz"))
    assert len(pages) > 20
    for page in pages:
        shown = run("man", "--warnings", "--local-file", page, environment={"MANPAGER": "cat"})
        assert "SYNOPSIS" in shown
        assert "warning" not in shown
    bash = {"_FEDIMG_COMPLETE": "complete_bash", "COMP_WORDS": "fedimg stat", "COMP_CWORD": "1"}
    assert "status" in run(home(root) / "python", home(root) / "fedimg", environment=bash)


def test_units_are_sound(root: Path) -> None:
    units = sorted(root.glob("usr/lib/systemd/system/*.service"))
    assert len(units) == 4
    for unit in units:
        (line,) = [each for each in unit.read_text().splitlines() if each.startswith("ExecStart=")]
        program = root / line.removeprefix("ExecStart=").split()[0].lstrip("/")
        assert program.is_symlink() or program.is_file(), line
    # What the units want, such as multi-user.target, is systemd's own.
    targets = [*Path("/usr/lib/systemd/system").glob("*.target")]
    run("cp", "--recursive", "--no-clobber", *targets, units[0].parent)
    for unit in units:
        run("systemd-analyze", "verify", "--man=no", f"--root={root}", f"/{unit.relative_to(root)}")
    assert "/opt/fedimg" not in "".join(unit.read_text() for unit in units)


def test_worker_of_the_package_publishes(root: Path, deployment: Deployment) -> None:
    deployment.stop("worker")
    deployment.start("worker", str(home(root) / "python"), str(home(root) / "fedimg"), "worker")
    announce_build(deployment)
    (job,) = deployment.ended()
    assert (job["state"], job["error"]) == ("complete", None)
    deployment.nothing_but_published(AMIS)
