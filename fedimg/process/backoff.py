"""Compute the pauses between tries, each twice as long as the last: the one policy of retries.

What is waited for in EC2 has intervals of its own (fedimg.aws.client.waiter).

By hand, as a library's pauses belong to its own loop, and most of these are stored as times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Doublings after which a pause is longer than any limit; more would overflow.
_MOST_DOUBLINGS = 64


@dataclass(frozen=True)
class Backoff:
    """Pauses in seconds: the `first`, then each twice as long, up to the `longest`."""

    first: float
    longest: float = math.inf

    def pause(self, failures: int) -> float:
        """Return the pause after so many failures in a row, which are at least one."""
        return min(self.first * 2.0 ** min(failures - 1, _MOST_DOUBLINGS), self.longest)

    def after(self, pause: float) -> float:
        """Return the pause that follows one of `pause` seconds."""
        return min(pause * 2, self.longest)
