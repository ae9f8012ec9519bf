"""A thread that does one thing again and again, until it is told to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

#: Between two looks whether it is this worker's turn, or over.
_TURN_SECONDS = 0.5
#: Before it is tried again after an error that was not foreseen, in seconds.
_ERROR_PAUSE = 60.0

_log = logging.getLogger(__name__)


class Periodic:
    """A thread that does `action` at once and then again and again, until `stop` is set.

    Args:
        name: what it does, for logs.
        action: returns the seconds until it is due again.
        stop: ends the pauses; an action that takes long should look at it too.
        turn: nothing is done before it is set.
    """

    def __init__(
        self,
        name: str,
        action: Callable[[], float],
        stop: threading.Event,
        turn: threading.Event | None = None,
    ) -> None:
        self._name = name
        self._action = action
        self._stop = stop
        self._turn = turn
        # A daemon: nothing that it waits for, a silent hub for one, holds up the process's end.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait, once `stop` is set, until it has ended, for `timeout` seconds at most."""
        self._thread.join(timeout)

    def _run(self) -> None:
        pause = 0.0
        while self._turn and not self._turn.wait(_TURN_SECONDS):
            if self._stop.is_set():
                return
        while not self._stop.wait(pause):
            try:
                pause = self._action()
            except Exception:
                _log.exception("%s failed; it begins again in %g s", self._name, _ERROR_PAUSE)
                pause = _ERROR_PAUSE
