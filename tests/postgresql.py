"""A real PostgreSQL of the tests' own: one server a session, and one database a test.

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

import psycopg

from fedimg.database import Database

_ROLE = "fedimg"
#: The prepared database that each test's is a copy of.
_BLANK = "blank"
_SETTINGS = (
    # What a power cut would lose, no test needs.
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
        self._folder = folder
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
        log = str(self._folder / "log")
        self._run(
            "pg_ctl", "start", "-w", "-D", str(self._folder / "data"), "-l", log, "-o", options
        )

    def stop(self) -> None:
        """Stop it, whoever is connected."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self._folder / "data"))

    def url(self, database: str) -> str:
        """The address of a database."""
        # Tests look at the queue's own tables too, by their bare names.
        path = "options=-csearch_path%3Dpublic,dbos"
        return f"postgresql://{_ROLE}@127.0.0.1:{self.port}/{database}?{path}"

    def empty(self) -> str:
        """The address of a new database with nothing in it."""
        return self._create("template1")

    def blank(self) -> str:
        """The address of a new database with fedimg's tables, which take a second to make."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            there = connection.execute(query, [_BLANK]).fetchone()
        if not there:
            self._create("template1", _BLANK)
            Database(self._folder, self.url(_BLANK), make=True).close()
        return self._create(_BLANK)

    def _create(self, template: str, name: str = "") -> str:
        name = name or f"test_{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        if os.getuid() == 0:
            command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]
        done = subprocess.run(
            command,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            timeout=120,
        )
        if done.returncode:
            log = self._folder / "log"
            text = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise RuntimeError(f"{program}: {done.stdout!r} {text}")


@contextmanager
def serving() -> Iterator[PostgreSQL]:
    """A server, for as long as the context lasts."""
    # Not below pytest's own folders, which only their owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="fedimg-postgresql-"))
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "nobody", "nogroup")
        server = PostgreSQL(folder)
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
        raise RuntimeError("these tests need PostgreSQL's server: install postgresql")
    return newest.parent
