"""Counts of requests, by service, action and region."""

import threading
from collections import Counter


class Calls:
    """Thread-safe counters of (region, service, action)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def count(self, service: str, action: str, region: str) -> None:
        with self._lock:
            self._counts[region, service, action] += 1

    def reset(self) -> None:
        with self._lock:
            self._counts.clear()

    def by_action(self) -> dict[str, dict[str, int]]:
        """As {service: {action: count}}."""
        found: dict[str, dict[str, int]] = {}
        for (_, service, action), count in self._all():
            actions = found.setdefault(service, {})
            actions[action] = actions.get(action, 0) + count
        return found

    def by_region(self) -> dict[str, dict[str, dict[str, int]]]:
        """As {region: {service: {action: count}}}."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        for (region, service, action), count in self._all():
            found.setdefault(region, {}).setdefault(service, {})[action] = count
        return found

    def _all(self) -> list[tuple[tuple[str, str, str], int]]:
        with self._lock:
            return sorted(self._counts.items())
