"""Earlier states of what exists, kept for as long as a plan of faults may have them shown."""

import copy
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

TABLES = ("images", "snapshots", "volumes", "instances")
# Calls that come closer together than this see the same past.
_GRAIN = 0.05


@dataclass(frozen=True)
class _State:
    """The things that existed, with their properties, at one moment of the monotonic clock."""

    when: float
    tables: dict[str, dict[str, Any]]


class History:
    """Earlier states of a world. Used under the world's lock."""

    def __init__(self) -> None:
        self._states: deque[_State] = deque()

    def note(self, world: Any, kept: float) -> None:
        """Remember how things are now, for `kept` seconds."""
        now = time.monotonic()
        while self._states and self._states[0].when < now - kept:
            self._states.popleft()
        if self._states and now - self._states[-1].when < _GRAIN:
            return
        tables = {
            name: {id: copy.copy(thing) for id, thing in getattr(world, name).items()}
            for name in TABLES
        }
        self._states.append(_State(now, tables))

    def back(self, seconds: float) -> dict[str, dict[str, Any]]:
        """Return the state so many seconds ago or, when nobody called then, at the next call."""
        earliest = time.monotonic() - seconds
        later = (state.tables for state in self._states if state.when >= earliest)
        return next(later, self._states[-1].tables)
