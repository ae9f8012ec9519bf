"""Commit together what many threads write at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa

T = TypeVar("T")


@dataclass(eq=False)
class _Write:
    """The write of one thread, and the result or the error that it ended with."""

    action: Callable[[sa.Connection], Any]
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None


class GroupCommit:
    """Runs the writes of many threads; those that arrive during a commit share the next commit.

    A commit waits for the disk, and commits wait for each other. All regions of all jobs record
    their progress at the same moments.

    Args:
        engine: the database's.
        begin: called first in each transaction.
    """

    def __init__(
        self, engine: sa.Engine, begin: Callable[[sa.Connection], object] = lambda connection: None
    ) -> None:
        self._engine = engine
        self._begin = begin
        self._lock = threading.Lock()
        self._waiting: list[_Write] = []
        # The thread that commits, for itself and for all that wait, holds this lock.
        self._committing = threading.Lock()

    def run(self, action: Callable[[sa.Connection], T]) -> T:
        """Run an action in a transaction, and return its result when that is committed.

        Raises the action's own error, after which nothing of it is committed. When another action
        of the same transaction fails, this one is run again.
        """
        own = _Write(action)
        with self._lock:
            self._waiting.append(own)
        with self._committing:
            if not own.done.is_set():
                with self._lock:
                    batch, self._waiting = self._waiting, []
                self._commit(batch)
        if own.error is not None:
            raise own.error
        result: T = own.result
        return result

    def _commit(self, writes: Sequence[_Write]) -> None:
        try:
            with self._engine.begin() as connection:
                self._begin(connection)
                for write in writes:
                    write.result = write.action(connection)
        except BaseException as error:
            if len(writes) > 1:
                # All were rolled back. Each is run alone, so that its own thread gets its error.
                for write in writes:
                    self._commit([write])
                return
            writes[0].error = error
        for write in writes:
            write.done.set()
