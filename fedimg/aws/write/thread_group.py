"""Threads at work on one thing, the pipes between them, and how all end when one of them fails."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, TypeVar

from fedimg.exceptions import Cancelled

T = TypeVar("T")

# How long a thread that waits for another may take to notice that all is over.
_LOOK_SECONDS = 0.2


class TooSlow(Exception):
    """The work was not done within its limit."""


class ThreadGroup:
    """The threads of one piece of work, as a context that ends them.

    Leaving it does not wait for them: a call that hangs ends by its own time-out, and its thread,
    a daemon, then finds `over` set. Those whose work has to be done first are waited for by `join`.
    """

    def __init__(self, stop: threading.Event, *, limit: float) -> None:
        self.over = threading.Event()
        self._stop = stop
        self._limit = limit
        self._deadline = time.monotonic() + limit
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._failures: list[BaseException] = []

    def __enter__(self) -> ThreadGroup:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()

    def start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Have a thread do `work`; what that raises ends everything."""

        def run() -> None:
            try:
                work()
            except BaseException as error:
                with self._lock:
                    if not self.over.is_set():
                        self._failures.append(error)
                        self.over.set()

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def check(self) -> None:
        """Raises TooSlow behind the limit, and Cancelled when all is over for another reason."""
        if self._stop.is_set():
            self.over.set()
            raise Cancelled
        if self.over.is_set():
            raise Cancelled
        if time.monotonic() > self._deadline:
            raise TooSlow(f"timed out after {self._limit:g} s")

    def join(
        self,
        threads: Sequence[threading.Thread] | None = None,
        glance: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait until these threads, or all, have done their work; `glance` is called meanwhile.

        Raises what the first thread to fail raised, and what `check` does.
        """
        for thread in self._threads if threads is None else threads:
            while thread.is_alive():
                self._judge()
                glance()
                thread.join(_LOOK_SECONDS)
        self._judge()

    def _judge(self) -> None:
        if self._failures and not self._stop.is_set():
            # Not kept: with it would be all that its thread had in its hands.
            raise self._failures.pop()
        self.check()


class Pipe(Generic[T]):
    """At most `size` things, or any number where that is 0, on their way from one thread of a group
    to others.

    Waiting on either side ends with what `ThreadGroup.check` raises.
    """

    def __init__(self, group: ThreadGroup, size: int) -> None:
        self._group = group
        self._queue: queue.Queue[tuple[T] | None] = queue.Queue(size)

    def put(self, thing: T) -> None:
        """Send a thing, as soon as there is room."""
        self._send((thing,))

    def close(self) -> None:
        """Nothing comes behind what was sent."""
        self._send(None)

    def __iter__(self) -> Iterator[T]:
        while (sent := self._receive()) is not None:
            yield sent[0]
        # For the next thread that reads here.
        self.close()

    def _send(self, sent: tuple[T] | None) -> None:
        while True:
            self._group.check()
            try:
                return self._queue.put(sent, timeout=_LOOK_SECONDS)
            except queue.Full:
                pass

    def _receive(self) -> tuple[T] | None:
        while True:
            self._group.check()
            try:
                return self._queue.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                pass


class MemoryBudget:
    """So much of something that the threads of a group share."""

    def __init__(self, group: ThreadGroup, size: int) -> None:
        self._group = group
        self._free = size
        self._news = threading.Condition()

    def take(self, some: int) -> None:
        """Take a share, of no more than there is in all, as soon as it is free.

        Waiting ends with what `ThreadGroup.check` raises.
        """
        while True:
            self._group.check()
            with self._news:
                if self._free >= some:
                    self._free -= some
                    return
                self._news.wait(_LOOK_SECONDS)

    def give_back(self, some: int) -> None:
        """Give back a share, or a part of it."""
        with self._news:
            self._free += some
            self._news.notify_all()


class Bytes(Pipe[bytes]):
    """Bytes on their way; all pipes that share a room hold as many as that has."""

    def __init__(self, group: ThreadGroup, room: MemoryBudget) -> None:
        super().__init__(group, 0)
        self._room = room

    def put(self, thing: bytes) -> None:
        """Send some bytes, as soon as there is room."""
        self._room.take(len(thing))
        super().put(thing)

    def __iter__(self) -> Iterator[bytes]:
        for thing in super().__iter__():
            self._room.give_back(len(thing))
            yield thing
