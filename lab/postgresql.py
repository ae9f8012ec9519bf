"""A real PostgreSQL, for fedimg or for anybody, which loses everything at its end.

It refuses to run as root, so that root starts it as `nobody`; it listens on a loopback port.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

import psycopg

_ROLE = "fedimg"
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
        given = " ".join(f"-c {key}='{value}'" for key, value in _SETTINGS)
        options = f"-h 127.0.0.1 -p {self.port} {given}"
        log = str(self.folder / "log")
        self._run(
            "pg_ctl", "start", "-w", "-D", str(self.folder / "data"), "-l", log, "-o", options
        )

    def stop(self) -> None:
        """Stop it, whoever is connected."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self.folder / "data"))

    def processes(self) -> list[int]:
        """The numbers of its processes."""
        main = (self.folder / "data" / "postmaster.pid").read_text().split()[0]
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [int(pid) for pid in (main, *children)]

    def url(self, database: str) -> str:
        """The address of a database."""
        return f"postgresql://{_ROLE}@127.0.0.1:{self.port}/{database}"

    def create(self, template: str = "template1", name: str = "") -> str:
        """The address of a new database, empty unless it is a copy of another."""
        name = name or f"database_{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        if os.getuid() == 0:
            command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]
        done = subprocess.run(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            timeout=120,
        )
        if done.returncode:
            log = self.folder / "log"
            text = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise RuntimeError(f"{program}: {done.stdout!r} {text}")


Server = TypeVar("Server", bound=PostgreSQL)


@contextmanager
def serving(kind: type[Server]) -> Iterator[Server]:
    """A server, for as long as the context lasts."""
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


def _programs() -> Path:
    """Where PostgreSQL's own programs are; Debian keeps them out of the PATH."""
    if found := shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")
    newest = max(versions, key=lambda path: int(path.parts[4]), default=None)
    if newest is None:
        raise RuntimeError("this needs PostgreSQL's server: install postgresql")
    return newest.parent
