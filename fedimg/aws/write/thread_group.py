"""Run threads on one task, with pipes between them; all end when one fails."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, TypeVar

from fedimg.exceptions import Cancelled

T = TypeVar("T")

# A waiting thread checks so often, in seconds, whether the group has ended.
_POLL_SECONDS = 0.2


class TooSlow(Exception):
    """The task was not done within its limit."""


class ThreadGroup:
    """The threads of one task, as a context that ends them.

    Leaving it does not wait for them: a call that hangs ends by its own timeout, and its thread, a
    daemon, then finds `over` set. `join` waits for threads.
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
        """Run `work` in a new thread; an exception in it ends the whole group."""

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

    def raise_if_over(self) -> None:
        """Raise TooSlow after the limit, and Cancelled when the group has ended otherwise."""
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
        on_poll: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait until these threads, or all, have ended; call `on_poll` several times a second.

        Raises the exception of the first thread to fail, and what `raise_if_over` raises.
        """
        for thread in self._threads if threads is None else threads:
            while thread.is_alive():
                self._judge()
                on_poll()
                thread.join(_POLL_SECONDS)
        self._judge()

    def _judge(self) -> None:
        if self._failures and not self._stop.is_set():
            # Removed from the list, since its traceback keeps the thread's data alive.
            raise self._failures.pop()
        self.raise_if_over()


class Pipe(Generic[T]):
    """A queue of at most `size` items, or any number for 0, between the threads of a group.

    Waiting on either side ends with what `ThreadGroup.raise_if_over` raises.
    """

    def __init__(self, group: ThreadGroup, size: int) -> None:
        self._group = group
        self._queue: queue.Queue[tuple[T] | None] = queue.Queue(size)

    def put(self, item: T) -> None:
        """Send an item, when there is room."""
        self._send((item,))

    def close(self) -> None:
        """Mark the end of the items."""
        self._send(None)

    def __iter__(self) -> Iterator[T]:
        while (sent := self._receive()) is not None:
            yield sent[0]
        # Pass the mark on to the next reading thread.
        self.close()

    def _send(self, sent: tuple[T] | None) -> None:
        while True:
            self._group.raise_if_over()
            try:
                return self._queue.put(sent, timeout=_POLL_SECONDS)
            except queue.Full:
                pass

    def _receive(self) -> tuple[T] | None:
        while True:
            self._group.raise_if_over()
            try:
                return self._queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                pass


class MemoryBudget:
    """An amount that the threads of a group share, such as bytes of memory."""

    def __init__(self, group: ThreadGroup, size: int) -> None:
        self._group = group
        self._free = size
        self._changed = threading.Condition()

    def take(self, amount: int) -> None:
        """Take a share, of at most the whole budget, when it is free.

        Waiting ends with what `ThreadGroup.raise_if_over` raises.
        """
        while True:
            self._group.raise_if_over()
            with self._changed:
                if self._free >= amount:
                    self._free -= amount
                    return
                self._changed.wait(_POLL_SECONDS)

    def give_back(self, amount: int) -> None:
        """Give back a share, or a part of it."""
        with self._changed:
            self._free += amount
            self._changed.notify_all()


class Bytes(Pipe[bytes]):
    """A pipe of bytes; the pipes that share a budget hold at most that many."""

    def __init__(self, group: ThreadGroup, budget: MemoryBudget) -> None:
        super().__init__(group, 0)
        self._budget = budget

    def put(self, item: bytes) -> None:
        """Send some bytes, when there is room."""
        self._budget.take(len(item))
        super().put(item)

    def __iter__(self) -> Iterator[bytes]:
        for item in super().__iter__():
            self._budget.give_back(len(item))
            yield item
