"""The running branches of a job: one whose region is away waits only while another one runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from fedimg.exceptions import Cancelled
from fedimg.steps import Branch, Steps

T = TypeVar("T")

#: Polling interval of a branch that waits for its region or for a request to stop, in seconds.
_POLL_SECONDS = 1.0


class RunningBranches:
    """The number of branches of one fan-out that run; none waits before they are `counted`."""

    def __init__(self) -> None:
        self._running = 0
        self._changed = threading.Condition()

    def counted(self, branches: Mapping[str, Branch[T]], at_once: int) -> dict[str, Branch[T]]:
        """Return the same branches, each of which is counted until it ends.

        If only some of them begin `at_once`, no branch waits: it would hold up one that could run.
        """
        if at_once >= len(branches):
            self._running = len(branches)
        return {name: self._counted(branch) for name, branch in branches.items()}

    def _counted(self, branch: Branch[T]) -> Branch[T]:
        def body(steps: Steps) -> T:
            try:
                return branch.body(steps)
            finally:
                self._change(-1)

        return Branch(branch.names, body)

    def wait_while(self, away: Callable[[], bool], stop: threading.Event) -> bool:
        """Wait while `away()` is true and another branch runs; return whether it became false.

        Raises Cancelled when `stop` is set.
        """
        self._change(-1)
        try:
            while True:
                if stop.is_set():
                    raise Cancelled
                if not away():
                    return True
                with self._changed:
                    if self._running <= 0:
                        return False
                    self._changed.wait(_POLL_SECONDS)
        finally:
            self._change(+1)

    def _change(self, by: int) -> None:
        with self._changed:
            self._running += by
            self._changed.notify_all()
