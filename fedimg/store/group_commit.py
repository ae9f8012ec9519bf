"""Commits together what many threads write at the same time; what is written, others know."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.sql.base import Executable


@dataclass(eq=False)
class _Write:
    """One statement of one thread, and what came of it."""

    statement: Executable
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None


class GroupCommit:
    """Writes each in a thread of its own, with one commit for all that came during the last one.

    A commit waits for the disk, and one that comes after another waits for that one's, too: all
    regions of all jobs tell how far they are at the same moments.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._waiting: list[_Write] = []
        # Held by who commits, for himself and for all that wait.
        self._turn = threading.Lock()

    def write(self, statement: Executable) -> None:
        """Run a statement, and return when it is committed. Raises what its own failure is."""
        mine = _Write(statement)
        with self._lock:
            self._waiting.append(mine)
        with self._turn:
            if not mine.done.is_set():
                with self._lock:
                    together, self._waiting = self._waiting, []
                self._commit(together)
        if mine.error is not None:
            raise mine.error

    def _commit(self, writes: Sequence[_Write]) -> None:
        try:
            with self._engine.begin() as connection:
                for write in writes:
                    connection.execute(write.statement)
        except BaseException as error:
            if len(writes) > 1:
                # Nothing of it is there: whose failure it was shows when each is alone.
                for write in writes:
                    self._commit([write])
                return
            writes[0].error = error
        for write in writes:
            write.done.set()
