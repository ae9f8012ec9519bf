"""Commit together the statements that many threads write at the same time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.sql.base import Executable


@dataclass(eq=False)
class _Write:
    """One statement of one thread, and the error that it ended with, if any."""

    statement: Executable
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None


class GroupCommit:
    """Runs statements of many threads; those that arrive during a commit share the next commit.

    A commit waits for the disk, and commits wait for each other. All regions of all jobs record
    their progress at the same moments.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._waiting: list[_Write] = []
        # The thread that commits, for itself and for all that wait, holds this lock.
        self._committing = threading.Lock()

    def write(self, statement: Executable) -> None:
        """Run a statement, and return when it is committed. Raises the statement's own error."""
        own = _Write(statement)
        with self._lock:
            self._waiting.append(own)
        with self._committing:
            if not own.done.is_set():
                with self._lock:
                    batch, self._waiting = self._waiting, []
                self._commit(batch)
        if own.error is not None:
            raise own.error

    def _commit(self, writes: Sequence[_Write]) -> None:
        try:
            with self._engine.begin() as connection:
                for write in writes:
                    connection.execute(write.statement)
        except BaseException as error:
            if len(writes) > 1:
                # All were rolled back. Each is run alone, so that its own thread gets its error.
                for write in writes:
                    self._commit([write])
                return
            writes[0].error = error
        for write in writes:
            write.done.set()
