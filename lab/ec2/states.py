"""The duration of each state, and the one thread that changes states when their time comes."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Delays:
    """Seconds that each thing takes; none is zero by default, so that a client has to wait."""

    instance_start: float = 0.5
    instance_stop: float = 0.3
    instance_terminate: float = 0.3
    instance_check: float = 2.0  # until EC2 calls a running instance that does not answer impaired
    instance_forgotten: float = 600.0  # a terminated instance is described this long; EC2: an hour
    snapshot: float = 0.5
    snapshot_copy: float = 0.7
    snapshot_copy_by_region: Mapping[str, float] = field(default_factory=dict)
    image: float = 0.2
    image_copy: float = 0.7
    volume: float = 0.2
    parameter: float = 0.3  # until SSM has confirmed the AMI that a parameter is to name
    launch_told: float = 86400.0  # until EC2 tells that an image was launched

    def copy_into(self, region: str) -> float:
        return self.snapshot_copy_by_region.get(region, self.snapshot_copy)


@dataclass(frozen=True)
class Span:
    """From when to when something happens, on the monotonic clock."""

    begin: float
    seconds: float

    @classmethod
    def of(cls, seconds: float) -> "Span":
        return cls(time.monotonic(), seconds)

    def percent(self) -> int:
        """Return how much of the time is over, 0 to 99: only the end itself makes it 100."""
        if self.seconds <= 0:
            return 99
        return min(99, int(100 * (time.monotonic() - self.begin) / self.seconds))


class Timeline:
    """Runs callbacks when they are due, one after the other, each under `lock`."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="ec2-timeline", daemon=True)
        self._thread.start()

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        with self._changed:
            when = time.monotonic() + seconds
            heapq.heappush(self._due, (when, next(self._order), happen))
            self._changed.notify()

    def close(self) -> None:
        """Nothing happens any more once this returns."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closed:
                if not self._due:
                    self._changed.wait()
                    continue
                wait = self._due[0][0] - time.monotonic()
                if wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait)
        return None

    def _run(self) -> None:
        while (happen := self._next()) is not None:
            with self._lock:
                happen()
