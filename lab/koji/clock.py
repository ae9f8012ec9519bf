"""Koji's own clock, which can be set: a week passes at once."""

import json
import os
import time
from pathlib import Path


class Clock:
    """The real time and what it was moved by, which is kept in a file: ids and times go together.

    Args:
        path: the file; a later clock with the same one goes on from there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._moved: float = json.loads(path.read_text()) if path.exists() else 0.0

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self._moved

    def advance(self, seconds: float) -> float:
        """Move the clock, back when `seconds` is negative; the time afterwards."""
        self._moved += float(seconds)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self._moved))
        os.replace(new, self._path)
        return self()
