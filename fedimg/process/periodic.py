"""Run an action at intervals in a thread until the process stops.

By hand, as a scheduler's job does not tell by itself when it is to run next.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

#: Polling interval of `stop` before `enabled` is set, in seconds.
_ENABLED_SECONDS = 0.5
#: Pause after an unexpected error, in seconds.
_ERROR_PAUSE = 60.0

_log = logging.getLogger(__name__)


class Periodic:
    """A thread that repeats an action until `stop` is set.

    Args:
        name: describes the action in logs.
        action: returns the seconds until its next call.
        stop: ends the pauses; an action that takes long should check it, too.
        enabled: the thread waits for it before the first call.
    """

    def __init__(
        self,
        name: str,
        action: Callable[[], float],
        stop: threading.Event,
        enabled: threading.Event | None = None,
    ) -> None:
        self._name = name
        self._action = action
        self._stop = stop
        self._enabled = enabled
        # A daemon, so that an action that waits, for a hub for instance, delays no exit.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for the end of the thread, after `stop` was set."""
        self._thread.join(timeout)

    def _run(self) -> None:
        pause = 0.0
        while self._enabled and not self._enabled.wait(_ENABLED_SECONDS):
            if self._stop.is_set():
                return
        while not self._stop.wait(pause):
            try:
                pause = self._action()
            except Exception:
                _log.exception("%s failed, retries in %g s", self._name, _ERROR_PAUSE)
                pause = _ERROR_PAUSE
