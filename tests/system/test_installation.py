"""The installation as README.md tells it, into an empty environment, with nothing cached.

It runs on the Python of the tests, or on each that $FEDIMG_PYTHONS names (`make install-test`).
pip asks its index as it does on a site; nothing else is asked for.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fedimg
from tests.system.checkout import ROOT, check_out, commands, index

PYTHONS = os.environ.get("FEDIMG_PYTHONS", sys.executable).split()
# A slow index is no fault of the lines; a hang is.
SECONDS = 900


@dataclass(frozen=True)
class Machine:
    """A folder that stands for a machine's root, a checkout on it, and what a user's shell has."""

    root: Path
    checkout: Path
    python: str
    environment: dict[str, str]

    def substituted(self, line: str) -> str:
        """Return a line of the documentation, with its places and its Python moved to here."""
        line = re.sub(r"^python3(?= )", shlex.quote(self.python), line)
        return re.sub(r"(?:(?<=\s)|^)/(?=opt/|usr/bin/)", f"{self.root}/", line)

    def run(self, line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a line as bash does."""
        return subprocess.run(
            ["bash", "-euc", line],
            cwd=cwd,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )


def installation() -> list[str]:
    return commands("README.md", "1. Install fedimg into an environment of its own")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(scope="module", params=PYTHONS)
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    root = tmp_path_factory.mktemp("machine")
    checkout = root / "checkout"
    check_out(checkout)
    for folder in ("opt", "usr/bin", "home"):
        (root / folder).mkdir(parents=True)
    environment = {
        **index(),
        "PIP_NO_CACHE_DIR": "1",
        "PATH": "/usr/bin:/bin",
        "HOME": str(root / "home"),
    }
    return Machine(root, checkout, request.param, environment)


@dataclass(frozen=True)
class Installed:
    """A machine on which the lines have run, and what they printed."""

    machine: Machine
    printed: str
    before: set[str]

    def run(self, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a line outside of the checkout."""
        home = self.machine.root / "home"
        return self.machine.run(self.machine.substituted(line), home, **environment)


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Installed:
    before = files(machine.checkout)
    printed = ""
    for line in installation():
        done = machine.run(machine.substituted(line), machine.checkout)
        assert done.returncode == 0, f"{line}\n{done.stdout}"
        printed += done.stdout
    return Installed(machine, printed, before)


def test_readme_has_the_installation_commands() -> None:
    lines = installation()
    assert lines[0] == "python3 -m venv /opt/fedimg"
    installing = [line for line in lines if "/pip install" in line]
    *others, own = installing
    # pip takes no other bytes than those that are named by their hashes.
    assert others
    assert all("--require-hashes" in line for line in others)
    assert {"--no-deps", "--no-build-isolation"} <= set(own.split())


@pytest.mark.long
@pytest.mark.timeout(SECONDS)
def test_installation_commands_install_the_pinned_versions(installed: Installed) -> None:
    # A build in isolation takes whatever its index has newest.
    assert "Installing build dependencies" not in installed.printed
    assert "DEPRECATION" not in installed.printed
    assert installed.run("/opt/fedimg/bin/pip check").returncode == 0
    listed = installed.run("/opt/fedimg/bin/pip list --format=freeze")
    there = dict(line.split("==") for line in listed.stdout.splitlines() if "==" in line)
    versions = {canonicalize_name(name): version for name, version in there.items()}
    assert versions.pop("fedimg") == fedimg.__version__
    pinned: dict[str, Requirement] = {}
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        if path.name == "fedimg-amqp.txt":  # Another installation: test_installation_amqp.py.
            continue
        for text in re.findall(r"^[\w.-]+==[^\\\n]+", path.read_text(), re.MULTILINE):
            one = Requirement(text)
            pinned[canonicalize_name(one.name)] = one
    for name, version in versions.items():
        assert pinned[name].specifier.contains(version), f"{name} {version}"


@pytest.mark.long
@pytest.mark.timeout(SECONDS)
def test_installation_leaves_the_checkout_as_it_was(installed: Installed) -> None:
    # What an older build left there, a newer one would install again.
    assert files(installed.machine.checkout) == installed.before


@pytest.mark.long
@pytest.mark.timeout(SECONDS)
def test_removed_module_is_not_installed_again(installed: Installed) -> None:
    checkout = installed.machine.checkout
    own = installed.machine.substituted(installation()[-2])
    assert own.endswith(" .")
    gone = checkout / "fedimg/gone_by_the_next_release.py"
    find = "/opt/fedimg/bin/python -c 'import fedimg.gone_by_the_next_release'"
    gone.write_text('"""A module that the next release does not have."""\n')
    try:
        assert installed.machine.run(own, checkout).returncode == 0
        # pip replaces what has the same version only when told to.
        again = f"{own} --force-reinstall"
        assert installed.machine.run(again, checkout).returncode == 0
        assert installed.run(find).returncode == 0
    finally:
        gone.unlink()
    assert installed.machine.run(again, checkout).returncode == 0
    assert "No module named" in installed.run(find).stdout


@pytest.mark.long
@pytest.mark.timeout(SECONDS)
def test_installed_commands_run_outside_of_the_checkout(installed: Installed) -> None:
    root = installed.machine.root
    said = installed.run("/usr/bin/fedimg --version")
    assert said.stdout.strip() == f"fedimg {fedimg.__version__}"
    site = root / "fedimg.toml"
    # No one else is asked: Koji and AWS are where nobody listens.
    site.write_text(
        f'site = "installed"\nstate_directory = "{root}/state"\n'
        '[koji]\nhub = "http://127.0.0.1:9/"\ntopurl = "http://127.0.0.1:9/"\n'
        '[ec2]\nwrite_via = "direct"\n'
    )
    nobody = {"FEDIMG_CONFIG": str(site), "AWS_EC2_METADATA_DISABLED": "true"}
    nobody |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_DEFAULT_REGION": "us-east-1"}
    checked = installed.run("/usr/bin/fedimg check", **nobody)
    assert checked.returncode == 1, checked.stdout
    assert "Traceback" not in checked.stdout
    assert "credentials" in checked.stdout
    modules = (
        "fedimg.worker.process, fedimg.consumers, fedimg.callback, fedimg.cli.commands, moksha.hub"
    )
    loaded = installed.run(f"/opt/fedimg/bin/python -c 'import {modules}; print(fedimg.__file__)'")
    assert loaded.returncode == 0, loaded.stdout
    assert loaded.stdout.splitlines()[-1].startswith(f"{root}/opt/fedimg/lib/")
    for program in ("fedmsg-hub", "fedmsg-relay", "fedora-messaging"):
        assert installed.run(f"/opt/fedimg/bin/{program} --help").returncode == 0, program


@pytest.mark.long
@pytest.mark.timeout(SECONDS)
def test_message_schemas_install_by_the_documented_command(installed: Installed) -> None:
    (line,) = re.findall(
        r"`(/opt/fedimg/bin/pip install [^`]+fedimg-messages)`",
        (ROOT / "docs/migrating.md").read_text(),
    )
    machine = installed.machine
    done = machine.run(machine.substituted(line), machine.checkout)
    assert done.returncode == 0, done.stdout
    assert "Installing build dependencies" not in done.stdout
    assert files(machine.checkout) == installed.before
    assert installed.run("/opt/fedimg/bin/pip check").returncode == 0
    shown = installed.run("/opt/fedimg/bin/python -c 'import fedimg_messages.messages'")
    assert shown.returncode == 0, shown.stdout
