"""Limit the calls a second to each region, since EC2 throttles accounts above its quota."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: The burst that is allowed after a pause, in seconds' worth of calls, like EC2's own buckets.
_BURST_SECONDS = 5.0


class RateLimit:
    """Lets `rate` calls a second through to each region, divided among the workers.

    Args:
        rate: calls a second of all workers together.
        clock: a monotonic clock, in seconds.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._workers = 1
        self._lock = threading.Lock()
        # By region, when the calls that were let through so far are paid for at the rate.
        self._paid: dict[str, float] = {}

    def share(self, workers: int) -> None:
        """Set the number of running workers, each of which gets an equal part of the rate."""
        self._workers = max(1, workers)

    def wait(self, region: str) -> None:
        """Wait until the next call to a region may begin."""
        with self._lock:
            now = self._clock()
            paid = max(self._paid.get(region, 0.0), now - _BURST_SECONDS)
            paid += self._workers / self._rate
            self._paid[region] = paid
        if paid > now:
            self._sleep(paid - now)
