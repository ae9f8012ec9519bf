"""Report the progress of writing an image, for `fedimg status`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from fedimg.aws.write.units import gib

#: The speed is the average of about the last so many seconds.
_WINDOW_SECONDS = 20.0
#: Seconds between two reports.
_REPORT_SECONDS = 2.0


def now_and_then(report: Callable[[], None]) -> Callable[[], None]:
    """Return a function, called often, that calls `report` every two seconds."""
    reported = time.monotonic()

    def call() -> None:
        nonlocal reported
        if time.monotonic() - reported >= _REPORT_SECONDS:
            reported = time.monotonic()
            report()

    return call


class WriteProgress:
    """The progress of one image of `total` uncompressed bytes."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._at: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def words(self, written: int) -> str:
        """Return a text such as `45% of 4 GiB written, 120 MB/s` for `written` bytes."""
        now = time.monotonic()
        self._at.append((now, written))
        while len(self._at) > 2 and now - self._at[0][0] > _WINDOW_SECONDS:
            self._at.popleft()
        since, before = self._at[0]
        speed = (written - before) / (now - since) if now > since else 0.0
        share = 100 * written // self._total
        return f"{share}% of {gib(self._total)} GiB written, {speed / 1e6:.0f} MB/s"
