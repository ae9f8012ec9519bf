"""The moments at which to kill: around a step's record, around a call to EC2, or at random.

The steps are known by the rows that DBOS writes of them, the calls by a proxy in front of EC2.
fedimg has no part in it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system.proxy import Proxy

#: Whoever holds SQLite's one write lock for that long hangs in our trigger: a write of fedimg's
#: own takes milliseconds.
_HANGING_SECONDS = 0.7
_LOOK_SECONDS = 0.002

#: Ends never, so that the process which inserts a row stands still inside its transaction: what it
#: did has taken effect, and is not recorded.
_FOREVER = """
CREATE VIEW chaos_forever AS
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n;
"""
_TRIGGER = """
CREATE TRIGGER chaos BEFORE INSERT ON {table} WHEN NEW.{column} GLOB '{name}'
BEGIN SELECT * FROM chaos_forever; END;
"""


@dataclass(frozen=True)
class Strike:
    """One kill.

    `kind` is `unrecorded` (the step `what` has happened and is just being recorded), `recorded`
    (it has been, milliseconds ago), `told` (the same with SIGTERM in place of a kill), `called`
    (EC2 has not seen the call `what`), `acted` (EC2 has, and nobody knows), or `moment` (`after`
    seconds from the start).
    """

    kind: str
    what: str = ""
    after: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.what}".strip()


@dataclass(frozen=True)
class Table:
    """A table whose rows tell what a process does: stored workflows, or steps that were taken."""

    name: str
    column: str


STEPS = Table("operation_outputs", "function_name")
WORKFLOWS = Table("workflow_status", "name")


class Database:
    """fedimg's database, seen from outside."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def _open(self, timeout: float = 30.0) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=timeout, isolation_level=None)) as opened:
            yield opened

    def steps(self) -> list[str]:
        """Return the names of all steps that were recorded, a job's own name left out of them."""
        with self._open() as database:
            rows = database.execute("SELECT DISTINCT function_name FROM operation_outputs")
            return sorted({_pattern(row[0]) for row in rows})

    def count(self, table: Table, name: str) -> int:
        """Return how many rows there are of that name, which may be a pattern."""
        with self._open() as database:
            return _count(database, table, name)

    def ids(self) -> set[str]:
        """Return the workflows that are stored."""
        with self._open() as database:
            return {row[0] for row in database.execute("SELECT workflow_uuid FROM workflow_status")}

    def hanging(self) -> bool:
        """Return whether somebody has held the write lock for as long as only our trigger does."""
        with self._open(_HANGING_SECONDS) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            database.execute("ROLLBACK")
            return False

    @contextmanager
    def hold(self, table: Table, name: str) -> Iterator[None]:
        """Have whoever inserts a row of that name stand still. It has to be gone at the end."""
        with self._open() as database:
            database.executescript(
                _FOREVER + _TRIGGER.format(table=table.name, column=table.column, name=name)
            )
        try:
            yield
        finally:
            with self._open() as database:
                database.executescript("DROP TRIGGER chaos; DROP VIEW chaos_forever;")

    def await_row(
        self, table: Table, name: str, start: Callable[[], object], go_on: Callable[[], bool]
    ) -> bool:
        """Call `start`; True as soon as there is one more row of that name, False to give up."""
        with self._open() as database:
            before = _count(database, table, name)
            start()
            while go_on():
                if _count(database, table, name) > before:
                    return True
                time.sleep(_LOOK_SECONDS)
        return False


def _count(database: sqlite3.Connection, table: Table, name: str) -> int:
    query = f"SELECT count(*) FROM {table.name} WHERE {table.column} GLOB ?"
    return int(database.execute(query, (name,)).fetchone()[0])


def _pattern(step: str) -> str:
    """`submit:build-1-Fedora…` is one step of many jobs; `copy:eu-west-1` is one of its own."""
    kind, _, rest = step.partition(":")
    return f"{kind}:*" if rest.startswith(("build-", "task-")) else step


class Striker:
    """Kills a process by `kill` as a strike says."""

    def __init__(self, database: Database, proxy: Proxy) -> None:
        self._database = database
        self._proxy = proxy

    def strike(
        self,
        strike: Strike,
        start: Callable[[], object],
        kill: Callable[[], object],
        go_on: Callable[[], bool],
        table: Table = STEPS,
    ) -> bool:
        """Start a process and kill it; whether that was done as the strike says.

        When `go_on` says no before its moment has come, the process is killed all the same.
        """
        match strike.kind:
            case "unrecorded":
                with self._database.hold(table, strike.what):
                    before = self._database.count(table, strike.what)
                    start()
                    struck = False
                    while not struck and go_on():
                        struck = self._database.hanging()
                        time.sleep(0.05)
                    kill()
                    # It hung, and what it wanted to write is not there.
                    return struck and self._database.count(table, strike.what) == before
            case "recorded" | "told":
                struck = self._database.await_row(table, strike.what, start, go_on)
                kill()
                return struck
            case "moment":
                start()
                deadline = time.monotonic() + strike.after
                while time.monotonic() < deadline and go_on():
                    time.sleep(_LOOK_SECONDS)
                kill()
                return True
            case "called" | "acted":
                return self._around_a_call(strike, start, kill, go_on)
        raise ValueError(strike.kind)

    def _around_a_call(
        self,
        strike: Strike,
        start: Callable[[], object],
        kill: Callable[[], object],
        go_on: Callable[[], bool],
    ) -> bool:
        once, struck = threading.Lock(), threading.Event()

        def hook(action: str) -> bool:
            # Calls that come side by side are one strike.
            if action == strike.what and once.acquire(blocking=False):
                kill()
                struck.set()
            # Whoever was killed hears nothing any more.
            return struck.is_set()

        place = "before" if strike.kind == "called" else "after"
        calm = getattr(self._proxy, place)
        setattr(self._proxy, place, hook)
        try:
            start()
            while not struck.is_set() and go_on():
                struck.wait(0.05)
        finally:
            setattr(self._proxy, place, calm)
        # From here on no hook begins; one that has is over in an instant.
        if not once.acquire(blocking=False):
            struck.wait()
            return True
        kill()
        return False
