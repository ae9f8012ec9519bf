"""A clock for tests of waits, on which time passes only while something waits."""

import threading


class Clock(threading.Event):
    """A monotonic clock that advances by each wait, and the stop event of that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.pauses.append(timeout)
        self.now += timeout
        return self.is_set()
