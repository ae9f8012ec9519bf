"""Split a machine's untrusted output into bounded lines without control characters."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable

from fedimg.exceptions import OUTPUT_TAIL
from fedimg.untrusted.quoting import printable

#: Most characters of a line; a longer line is split, so that output without line ends stays
#: bounded.
LONGEST_LINE = 4096


class InstanceOutput:
    """One output stream of a command: calls `on_line` with each line, and keeps a bounded tail."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""
        self._lines: deque[str] = deque()
        self._size = 0

    @property
    def tail(self) -> str:
        """Return the last lines, at most 32 KiB in UTF-8."""
        return "\n".join(self._lines)

    def feed(self, data: bytes) -> None:
        """Add the next bytes, which may begin and end within a line or a character."""
        text = self._pending + self._decoder.decode(data)
        *lines, self._pending = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in lines:
            self._add(line)
        if len(self._pending) > LONGEST_LINE:
            self._add(self._pending)
            self._pending = ""

    def end(self) -> None:
        """Add the text after the last line end as a line."""
        self._pending += self._decoder.decode(b"", final=True)
        if self._pending:
            self._add(self._pending)
            self._pending = ""

    def _add(self, raw: str) -> None:
        text = raw if raw.isprintable() else printable(raw)
        for start in range(0, max(len(text), 1), LONGEST_LINE):
            line = text[start : start + LONGEST_LINE]
            self._lines.append(line)
            self._size += len(line.encode()) + 1
            while self._size > OUTPUT_TAIL:
                self._size -= len(self._lines.popleft().encode()) + 1
            self._on_line(line)
