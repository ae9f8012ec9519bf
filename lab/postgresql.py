"""A real PostgreSQL, for fedimg or for anybody, which loses everything at its end.

It refuses to run as root, so that root starts it as `nobody`; it listens on a loopback port.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

import psycopg

from lab.processes import Process

_ROLE = "fedimg"
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
_SETTINGS = (
    # What a power cut would lose, nobody needs.
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "off"),
    ("shared_buffers", "32MB"),
    ("max_connections", "300"),
    ("unix_socket_directories", ""),
)


class PostgreSQL:
    """One running server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._programs = _programs()
        self._numbers = count()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        options = ["--auth=trust", f"--username={_ROLE}", "--encoding=UTF8", "--no-locale", "-N"]
        self._run("initdb", "-D", str(folder / "data"), *options)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data")]
        command += ["-h", "127.0.0.1", "-p", str(self.port)]
        for key, value in _SETTINGS:
            command += ["-c", f"{key}={value}"]
        # Becoming somebody else forgets that it is to end with us: said again behind that.
        command = [*_as_nobody(), "setpriv", "--pdeathsig", "KILL", "--", *command]
        self._process = Process(command, self.folder, {}, self.folder / "log")
        deadline = time.monotonic() + _START_SECONDS
        while True:
            self._process.check()
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        """Stop it at once, whoever is connected."""
        os.kill(self._process.pid, signal.SIGQUIT)
        self._process.wait(_STOP_SECONDS)

    def processes(self) -> list[int]:
        """Return the numbers of the server's processes."""
        main = self._process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [main, *map(int, children)]

    def url(self, database: str) -> str:
        """Return the address of a database."""
        return f"postgresql://{_ROLE}@127.0.0.1:{self.port}/{database}"

    def create(self, template: str = "template1", name: str = "") -> str:
        """Create a database, empty or a copy of another, and return its address."""
        name = name or f"database_{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*_as_nobody(), str(self._programs / program), *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")


Server = TypeVar("Server", bound=PostgreSQL)


@contextmanager
def serving(kind: type[Server]) -> Iterator[Server]:
    """Run a server for as long as the context lasts."""
    # Not below a caller's own folders, which perhaps only their owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="lab-postgresql-"))
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "nobody", "nogroup")
        server = kind(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_nobody() -> list[str]:
    """In front of a command: root becomes somebody whom PostgreSQL does not refuse."""
    if os.getuid() != 0:
        return []
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]


def _programs() -> Path:
    """Return the folder of PostgreSQL's own programs; Debian keeps them out of the PATH."""
    if found := shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")
    newest = max(versions, key=lambda path: int(path.parts[4]), default=None)
    if newest is None:
        raise RuntimeError("this needs PostgreSQL's server: install postgresql")
    return newest.parent
