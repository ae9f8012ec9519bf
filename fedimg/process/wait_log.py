"""Log a wait as one warning at its beginning, one at intervals while it lasts, one at its end."""

from __future__ import annotations

import logging
import threading
import time

#: Interval of the warnings about a wait that lasts, in seconds.
REMINDER_SECONDS = 900.0


class WaitLog:
    """The waits that were logged and are not over, each under a key; for any number of threads.

    Args:
        log: gets the warnings.
        interval: seconds between two warnings about one wait.
    """

    def __init__(self, log: logging.Logger, interval: float = REMINDER_SECONDS) -> None:
        self._log = log
        self._interval = interval
        self._lock = threading.Lock()
        # Per key: when the wait began and when it was last logged, by the monotonic clock.
        self._waits: dict[str, tuple[float, float]] = {}

    def waiting(self, key: str, text: str, **fields: str) -> None:
        """Log `text` if the wait is new, or was last logged before the interval.

        `fields` become fields of the journal's entry.
        """
        now = time.monotonic()
        with self._lock:
            known = self._waits.get(key)
            began = known[0] if known else now
            if known and now - known[1] < self._interval:
                return
            self._waits[key] = (began, now)
        lasting = f" (waiting for {round((now - began) / 60)} min)" if known else ""
        self._log.warning("%s%s", text, lasting, extra=fields)

    def remind(self, key: str, text: str, age: float, **fields: str) -> None:
        """Do as `waiting` for a wait that began `age` seconds ago and was logged then."""
        began = time.monotonic() - age
        with self._lock:
            self._waits.setdefault(key, (began, began))
        self.waiting(key, text, **fields)

    def forget(self, key: str) -> None:
        """Forget a wait whose end is logged elsewhere."""
        with self._lock:
            self._waits.pop(key, None)

    def over(self, key: str, text: str, **fields: str) -> None:
        """Log `text` if this wait was logged; return silently otherwise."""
        with self._lock:
            wait = self._waits.pop(key, None)
        if wait is not None:
            self._log.warning("%s (after %d s)", text, time.monotonic() - wait[0], extra=fields)
