"""How many calls a second go to one region: EC2 counts them, and refuses what is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: What may come at once after a pause, in seconds' worth of calls; EC2's own buckets hold as much.
_BURST_SECONDS = 5.0


class RateLimit:
    """Lets `rate` calls a second through to each region, this worker's share of them.

    Args:
        rate: calls a second of all workers together.
        clock: seconds that only go forward.
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
        # When the calls of a region that were let through by now have had their time.
        self._paid: dict[str, float] = {}

    def share(self, workers: int) -> None:
        """So many workers live: each has an equal part."""
        self._workers = max(1, workers)

    def wait(self, region: str) -> None:
        """Return when the next call to a region may begin."""
        with self._lock:
            now = self._clock()
            paid = max(self._paid.get(region, 0.0), now - _BURST_SECONDS)
            paid += self._workers / self._rate
            self._paid[region] = paid
        if paid > now:
            self._sleep(paid - now)
