"""Count the lines of a job that go on: one whose region is away waits while another goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from fedimg.exceptions import Cancelled
from fedimg.steps import Branch, Steps

T = TypeVar("T")

#: Between two looks whether a region is back, or the job is to stop, in seconds.
_LOOK_SECONDS = 1.0


class RegionLines:
    """The lines of one fan-out; nobody waits in them before they are `counted`."""

    def __init__(self) -> None:
        self._going = 0
        self._news = threading.Condition()

    def counted(self, lines: Mapping[str, Branch[T]], at_once: int) -> dict[str, Branch[T]]:
        """Return the same lines, of which each that ends is noted.

        When they do not all begin at once, none waits: it would hold up one that could
        go on.
        """
        if at_once >= len(lines):
            self._going = len(lines)
        return {name: self._counted(branch) for name, branch in lines.items()}

    def _counted(self, branch: Branch[T]) -> Branch[T]:
        def body(steps: Steps) -> T:
            try:
                return branch.body(steps)
            finally:
                self._change(-1)

        return Branch(branch.names, body)

    def outlast(self, away: Callable[[], bool], stop: threading.Event) -> bool:
        """Wait while something is `away` and another line goes on; whether it is back by then.

        Raises Cancelled when `stop` is set.
        """
        self._change(-1)
        try:
            while True:
                if stop.is_set():
                    raise Cancelled
                if not away():
                    return True
                with self._news:
                    if self._going <= 0:
                        return False
                    self._news.wait(_LOOK_SECONDS)
        finally:
            self._change(+1)

    def _change(self, by: int) -> None:
        with self._news:
            self._going += by
            self._news.notify_all()
