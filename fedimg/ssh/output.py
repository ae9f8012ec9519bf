"""What a machine prints, made fit to be shown: in lines, bounded, and without control characters.

None of it can be trusted; where it comes from is fedimg.ssh.client's affair.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable

from fedimg.exceptions import OUTPUT_TAIL
from fedimg.untrusted.quoting import printable

#: A line longer than this many characters becomes several: output without line ends stays bounded.
LONGEST_LINE = 4096


class InstanceOutput:
    """One stream of a command: lines for a listener, and a bounded tail."""

    def __init__(self, heard: Callable[[str], None]) -> None:
        self._heard = heard
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""
        self._lines: deque[str] = deque()
        self._size = 0

    @property
    def tail(self) -> str:
        """The last lines, at most 32 KiB in UTF-8."""
        return "\n".join(self._lines)

    def feed(self, data: bytes) -> None:
        """Take the next bytes, whose borders are nobody's line ends."""
        text = self._pending + self._decoder.decode(data)
        *lines, self._pending = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in lines:
            self._take(line)
        if len(self._pending) > LONGEST_LINE:
            self._take(self._pending)
            self._pending = ""

    def end(self) -> None:
        """Take what came after the last line end."""
        self._pending += self._decoder.decode(b"", final=True)
        if self._pending:
            self._take(self._pending)
            self._pending = ""

    def _take(self, raw: str) -> None:
        text = raw if raw.isprintable() else printable(raw)
        for start in range(0, max(len(text), 1), LONGEST_LINE):
            line = text[start : start + LONGEST_LINE]
            self._lines.append(line)
            self._size += len(line.encode()) + 1
            while self._size > OUTPUT_TAIL:
                self._size -= len(self._lines.popleft().encode()) + 1
            self._heard(line)
