"""How far the writing of an image is, in the words that `fedimg status` shows."""

from __future__ import annotations

import time
from collections import deque

from fedimg.aws.write.image_size import gib

#: The speed is that of about the last so many seconds: what matters is how it goes now.
_WINDOW_SECONDS = 20.0


class WriteProgress:
    """Follows one image of `total` bytes, uncompressed."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._at: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def words(self, written: int) -> str:
        """Such as `45% of 4 GiB written, 120 MB/s`, once so many bytes are."""
        now = time.monotonic()
        self._at.append((now, written))
        while len(self._at) > 2 and now - self._at[0][0] > _WINDOW_SECONDS:
            self._at.popleft()
        since, before = self._at[0]
        speed = (written - before) / (now - since) if now > since else 0.0
        share = 100 * written // self._total
        return f"{share}% of {gib(self._total)} GiB written, {speed / 1e6:.0f} MB/s"
