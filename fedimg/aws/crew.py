"""Threads at work on one thing, the pipes between them, and how all end when one of them fails."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

from fedimg.exceptions import Cancelled

T = TypeVar("T")

# How long a thread that waits for another may take to notice that all is over.
_LOOK_SECONDS = 0.2


class TooSlow(Exception):
    """The work was not done within its limit."""


class Crew:
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
        self._failure: BaseException | None = None

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Have a thread do `work`; what that raises ends everything."""

        def run() -> None:
            try:
                work()
            except BaseException as error:
                with self._lock:
                    if not self.over.is_set():
                        self._failure = error
                        self.over.set()

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def check(self) -> None:
        """Raises what the first thread to fail raised, TooSlow behind the limit, or Cancelled."""
        if self._stop.is_set():
            self.over.set()
            raise Cancelled
        if self.over.is_set():
            raise self._failure or Cancelled
        if time.monotonic() > self._deadline:
            raise TooSlow(f"not done after {self._limit:g} s; gave up")

    def join(self) -> None:
        """Wait until every thread has done its work. Raises what `check` does."""
        for thread in self._threads:
            while thread.is_alive():
                self.check()
                thread.join(_LOOK_SECONDS)
        self.check()


class Pipe(Generic[T]):
    """At most `size` things on their way from one thread of a crew to others.

    Waiting on either side ends with what `Crew.check` raises.
    """

    def __init__(self, crew: Crew, size: int) -> None:
        self._crew = crew
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
            self._crew.check()
            try:
                return self._queue.put(sent, timeout=_LOOK_SECONDS)
            except queue.Full:
                pass

    def _receive(self) -> tuple[T] | None:
        while True:
            self._crew.check()
            try:
                return self._queue.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                pass
