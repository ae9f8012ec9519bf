"""The requests that policies decided, with the statements that allowed or denied each."""

import threading
from collections import Counter
from typing import Any


class Decisions:
    """Thread-safe counters; the account's own calls are in none of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str, str, bool, tuple[str, ...]]] = Counter()

    def note(self, who: str, action: str, kind: str, allowed: bool, by: tuple[str, ...]) -> None:
        with self._lock:
            self._counts[who, action, kind or "*", allowed, by] += 1

    def rows(self) -> list[dict[str, Any]]:
        """`by` has the Sids of all the statements that allow it, or that deny it explicitly."""
        with self._lock:
            counted = sorted(self._counts.items())
        return [
            {
                "caller": who,
                "action": action,
                "resource": kind,
                "allowed": allowed,
                "by": list(by),
                "count": count,
            }
            for (who, action, kind, allowed, by), count in counted
        ]
