"""A machine under a systemd of its own: a Debian in systemd-nspawn, on the network of this host.

The container reaches what listens on the host's loopback, such as a lab site, and nothing of the
host's files but pip's certificates. It needs root, and no systemd on the host.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab.processes import Process
from tests.system.checkout import ROOT, index

#: Kept between runs; `make clean` removes it.
DEBIAN = ROOT / "build" / "systemd" / "debian.tar"
PACKAGES = "systemd-sysv,dbus,python3-venv"
BOOT_SECONDS = 240.0
#: pip's installation is the longest command.
COMMAND_SECONDS = 1200
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified")


def debian() -> Path:
    """Return an archive of a Debian with systemd, of the host's release; build it where none is."""
    if not DEBIAN.exists():
        DEBIAN.parent.mkdir(parents=True, exist_ok=True)
        release = next(
            line.partition("=")[2].strip('"')
            for line in Path("/etc/os-release").read_text().splitlines()
            if line.startswith("VERSION_CODENAME=")
        )
        new = DEBIAN.with_suffix(".new.tar")
        options = ["--variant=apt", f"--include={PACKAGES}", "--quiet"]
        _run("mmdebstrap", *options, release, new, "http://deb.debian.org/debian")
        new.replace(DEBIAN)
    return DEBIAN


class Container:
    """One booted machine; `folder` holds its root and its console, and is made.

    Args:
        folder: of the test's own; `close` removes the root in it.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.console = folder / "console.log"
        self._name = f"fedimg-{os.getpid()}"
        self._groups: list[Path] = []
        self._nspawn: Process | None = None
        self._leader = 0
        self.root.mkdir(parents=True)
        _run("tar", "--extract", "--numeric-owner", "--file", debian(), "--directory", self.root)
        # Host and container are two machines, whose journals must not be one.
        (self.root / "etc/machine-id").write_text("")

    def boot(self) -> None:
        """Start systemd, and return when it has started what it starts by itself."""
        command = [
            *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--console=pipe"),
            *(f"--directory={self.root}", f"--machine={self._name}"),
            # For IPAddressDeny=, which is a program of BPF.
            "--capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON",
            "--system-call-filter=bpf",
            *(f"--bind-ro={file}" for file in _certificates()),
        ]
        # Of a host without a systemd, whom nspawn would ask for a place, it gets one here.
        if not Path("/run/systemd/system").is_dir():
            command.append("--keep-unit")
            command = [*_in_groups(self._make_groups()), *command]
        # Where the host has cgroups of version 1, too: units are tested under version 2.
        environment = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        self._nspawn = Process(command, self.root.parent, environment, self.console)
        self._leader = self._wait(self._find_leader, "systemd")
        self._wait(self._started, "the start of systemd's own units")

    def run(
        self,
        line: str,
        *,
        environment: Mapping[str, str] | None = None,
        cwd: str = "/root",
        status: int | None = 0,
        given: str = "",
    ) -> str:
        """Run a line as root's bash does, with `given` on its standard input; return its output.

        Raises AssertionError for an exit status other than `status`; None takes any.
        """
        own = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **(environment or {})}
        variables = [f"{name}={value}" for name, value in own.items()]
        done = subprocess.run(
            [*self._inside(), "env", "-i", *variables, "bash", "-euc", f"cd {cwd}\n{line}"],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        assert status is None or done.returncode == status, (
            f"{line}\nexit status {done.returncode}\n{done.stdout[-6000:]}"
        )
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit, as systemctl tells it."""
        return self.run(f"systemctl show --property={name} --value {unit}").strip()

    def journal(self, *options: str) -> list[dict[str, Any]]:
        """Return entries of the journal, oldest first."""
        printed = self.run(f"journalctl --output=json --no-pager {' '.join(options)}")
        return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]

    def write(self, path: str, text: str, mode: int = 0o644, owner: str = "root:root") -> None:
        """Write a file of the machine."""
        user, group = owner.split(":")
        self.run(f"install -D -m {mode:o} -o {user} -g {group} /dev/stdin {path}", given=text)

    def cut_power(self) -> None:
        """End all processes of the machine at once; its files stay as they are."""
        assert self._nspawn is not None
        with suppress(ProcessLookupError):
            os.kill(self._leader, signal.SIGKILL)
        self._wait(lambda: self._nspawn is None or not self._nspawn.running, "the end")
        self._nspawn.stop()

    def close(self) -> None:
        """Shut the machine down, and remove its root and all that the host had for it."""
        if self._nspawn is not None:
            # nspawn asks its systemd to shut down.
            with suppress(ProcessLookupError):
                os.kill(self._nspawn.pid, signal.SIGTERM)
            deadline = time.monotonic() + BOOT_SECONDS
            while self._nspawn.running and time.monotonic() < deadline:
                time.sleep(0.2)
            self._nspawn.stop()
        for group in self._groups:
            for each in [*sorted(group.rglob("*/"), reverse=True), group]:
                with suppress(OSError):
                    each.rmdir()
        shutil.rmtree(self.root)

    def _inside(self) -> list[str]:
        namespaces = ("--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd")
        return ["nsenter", f"--target={self._leader}", *namespaces, "--"]

    def _find_leader(self) -> int | None:
        assert self._nspawn is not None
        self._nspawn.check()
        pid = self._nspawn.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            with suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
        return None

    def _started(self) -> bool:
        state = self.run("systemctl is-system-running --wait", status=None).strip()
        return state in ("running", "degraded")

    def _wait(self, look: Any, what: str) -> Any:
        deadline = time.monotonic() + BOOT_SECONDS
        while not (found := look()):
            assert time.monotonic() < deadline, f"{what}: {self.console.read_text()[-3000:]}"
            time.sleep(0.2)
        return found

    def _make_groups(self) -> Sequence[Path]:
        for hierarchy in map(Path, CGROUPS):
            if (hierarchy / "cgroup.procs").exists():
                with suppress(OSError):
                    (hierarchy / "cgroup.subtree_control").write_text("+cpu +memory +pids")
                group = hierarchy / self._name
                group.mkdir(exist_ok=True)
                self._groups.append(group)
        return self._groups


def _in_groups(groups: Sequence[Path]) -> list[str]:
    """Return the beginning of a command line that runs the rest in these control groups."""
    line = 'for group; do [ "$group" = -- ] && break; echo $$ >"$group/cgroup.procs"; done'
    skip = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
    return ["sh", "-euc", f"{line}\n{skip}", "sh", *map(str, groups), "--"]


def _certificates() -> list[str]:
    named = {value for name, value in index().items() if name in ("PIP_CERT", "SSL_CERT_FILE")}
    return sorted(file for file in named if Path(file).is_file())


def _run(*command: object) -> None:
    done = subprocess.run(
        [str(each) for each in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise AssertionError(f"{command[0]} ended with status {done.returncode}")
