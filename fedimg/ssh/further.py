"""Hold standard input of a command that has not been sent yet, while more of it arrives."""

from __future__ import annotations

import threading


class Further:
    """The bytes that one thread adds, and another sends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = bytearray()

    def add(self, data: bytes) -> None:
        """Add bytes behind those that wait."""
        with self._lock:
            self._waiting += data

    def first(self, most: int) -> bytes:
        """Return the first bytes that wait, at most so many."""
        with self._lock:
            return bytes(self._waiting[:most])

    def sent(self, count: int) -> None:
        """Forget the first bytes, which have been sent."""
        with self._lock:
            del self._waiting[:count]
