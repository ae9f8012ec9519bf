"""Real SSH servers of Debian 12 and 13, unpacked into a folder and started on loopback."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedimg.ssh.client import Identity

ROOT = Path(__file__).parent.parent.parent
#: The folder of `tools/ssh-servers`, filled by the first who needs it.
FOLDER = ROOT / "build" / "ssh-servers"
LOADER = "lib64/ld-linux-x86-64.so.2"
#: Nobody else is let in by an sshd that does not run as root.
_NOBODY = "nobody"
_PATIENCE = 20.0


@dataclass
class SSHServer:
    """A server that runs: its port, the user whom it lets in, and the file of that user's keys."""

    port: int
    user: str
    authorized: Path
    log: Path

    def authorize(self, key: Identity) -> None:
        """Let a key in, from now on."""
        self.authorized.write_text(f"{key.public}\n")


def unpacked() -> Path:
    """Return the folder of the servers; skip the test where they cannot be had."""
    if os.uname().machine != "x86_64" or not shutil.which("apt-get"):
        pytest.skip("the servers are Debian's, for x86_64")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [ROOT / "tools" / "ssh-servers", FOLDER], capture_output=True, text=True
        )
    if done.returncode:
        pytest.skip(f"Debian's mirror cannot be read: {done.stderr[-300:]}")
    return FOLDER


def _loaded(root: Path, program: str) -> list[str]:
    """Return the command that runs a program of a root with that root's libraries."""
    libraries = f"{root}/usr/lib/x86_64-linux-gnu:{root}/usr/lib/x86_64-linux-gnu/systemd"
    path = f"{root}/{program}"
    return [f"{root}/{LOADER}", "--library-path", libraries, "--argv0", path, path]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def openssh(suite: str, host_key: Identity) -> Iterator[SSHServer]:
    """Run the sshd of a suite."""
    root = unpacked() / suite
    with tempfile.TemporaryDirectory() as folder:
        # Another user than ours has to reach its keys.
        Path(folder).chmod(0o755)
        yield from _openssh(root, suite, Path(folder), host_key)


def _openssh(root: Path, suite: str, folder: Path, host_key: Identity) -> Iterator[SSHServer]:
    user = _NOBODY if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    unpacked = root
    if user == _NOBODY:
        # It may not enter the checkout, as below a home directory: the root is mounted beside.
        root = folder / "root"
        root.mkdir()
    key, authorized, log = folder / "host_key", folder / "authorized_keys", folder / "log"
    key.write_text(host_key.private_text)
    key.chmod(0o600)
    authorized.touch()
    port = _free_port()
    lines = [
        f"ListenAddress 127.0.0.1:{port}",
        f"HostKey {key}",
        f"AuthorizedKeysFile {authorized}",
        "StrictModes no",
        "UsePAM no",
        "PidFile none",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
    ]
    command = [*_loaded(root, "usr/sbin/sshd"), "-D", "-e", "-f", str(folder / "config")]
    if suite == "bookworm":
        # It would start itself anew, without its libraries.
        command.append("-r")
    else:
        for setting, program in (
            ("SshdSessionPath", "sshd-session"),
            ("SshdAuthPath", "sshd-auth"),
        ):
            script = folder / program
            loaded = " ".join(_loaded(root, f"usr/lib/openssh/{program}"))
            script.write_text(f'#!/bin/sh\nexec {loaded} "$@"\n')
            script.chmod(0o755)
            lines.append(f"{setting} {script}")
    (folder / "config").write_text("\n".join(lines) + "\n")
    if user == _NOBODY:
        number = pwd.getpwnam(_NOBODY)
        os.chown(key, number.pw_uid, number.pw_gid)
        # The account of `nobody` is locked, but in a namespace whose /etc/shadow says otherwise.
        shadow = folder / "shadow"
        shadow.write_text(f"{_NOBODY}:x:1::::::\n")
        mounted = (
            f"mount --bind {unpacked} {root} && mount --bind {shadow} /etc/shadow && "
            f'exec setpriv --reuid={_NOBODY} "$@"'
        )
        command = ["unshare", "--mount", "sh", "-c", mounted, "sh", "--clear-groups", *command]
    with _running(command, port, log):
        yield SSHServer(port, user, authorized, log)


@contextmanager
def dropbear(host_key: Identity) -> Iterator[SSHServer]:
    """Run Debian 13's dropbear, below the home directory, as others may write into /tmp.

    dropbear takes no key of a file below such a folder.
    """
    root = unpacked() / "trixie"
    with tempfile.TemporaryDirectory(prefix=".dropbear-", dir=Path.home()) as folder:
        yield from _dropbear(root, Path(folder), host_key)


def _dropbear(root: Path, folder: Path, host_key: Identity) -> Iterator[SSHServer]:
    given, key, log = folder / "given", folder / "host_key", folder / "log"
    given.write_text(host_key.private_text)
    given.chmod(0o600)
    subprocess.run(
        [*_loaded(root, "usr/bin/dropbearconvert"), "openssh", "dropbear", given, key],
        check=True,
        capture_output=True,
    )
    port = _free_port()
    authorized = folder / "authorized_keys"
    authorized.touch(0o600)
    # For each connection one, as it would start itself anew, without its libraries.
    command = [*_loaded(root, "usr/sbin/dropbear"), "-i", "-E", "-s", "-r", str(key)]
    command += ["-D", str(folder)]
    with socket.create_server(("127.0.0.1", port)) as listener, log.open("wb") as out:
        children: list[subprocess.Popen[bytes]] = []

        def serve() -> None:
            while True:
                try:
                    accepted = listener.accept()[0]
                except OSError:
                    return
                with accepted:
                    children.append(
                        subprocess.Popen(command, stdin=accepted, stdout=accepted, stderr=out)
                    )

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield SSHServer(port, pwd.getpwuid(os.geteuid()).pw_name, authorized, log)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for child in children:
                child.kill()
                child.wait(240)


@contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _listens(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(240)


def _listens(port: int) -> bool:
    """Return whether a process listens, without a connection that the server would count."""
    table = Path("/proc/net/tcp").read_text()
    return f"0100007F:{port:04X} 00000000:0000 0A" in table
