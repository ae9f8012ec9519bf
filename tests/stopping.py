"""Tell how long a process takes to end, the waits for a busy machine's processors left out."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_SECOND = 1e9


def stop(
    process: subprocess.Popen[bytes],
    number: signal.Signals = signal.SIGTERM,
    patience: float = 240,
) -> tuple[int, float]:
    """Send a signal to a process; return its exit status and for how many seconds it then slept.

    Fails after `patience` seconds.
    """
    process.send_signal(number)
    slept = slept_until_end(process.pid, lambda: process.poll() is not None, patience)
    assert process.returncode is not None
    return process.returncode, slept


def slept_until_end(pid: int, ended: Callable[[], bool], patience: float = 240) -> float:
    """Return for how many seconds a process slept until it has `ended`.

    It slept while none of its threads ran or waited for a processor (schedstat of proc(5)): that is
    what it takes on an idle machine beyond its own work. Fails after `patience` seconds.
    """
    ours, began = _scheduled(Path("/proc/thread-self/schedstat")), time.monotonic()
    before = _threads(pid)
    latest = dict(before)
    while not ended():
        assert time.monotonic() - began < patience, f"it still runs after {patience} s"
        # A thread that ended is counted as it was last seen.
        latest |= _threads(pid)
        time.sleep(0.005)
    took = time.monotonic() - began
    # We see the end only when a processor is ours.
    took -= _scheduled(Path("/proc/thread-self/schedstat")) - ours
    busy = sum(latest.values()) - sum(before.values())
    return max(0.0, took - busy)


class Asleep:
    """For how long this process has slept since this was made, as `slept_until_end` tells it.

    It counts as awake while any of its threads runs or waits for a processor: on a busy machine a
    test learns too little, never that it was slow.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = _threads(os.getpid())

    def seconds(self) -> float:
        now = _threads(os.getpid())
        awake = sum(seconds - self._before.get(name, 0.0) for name, seconds in now.items())
        return max(0.0, time.monotonic() - self._began - awake)


def _threads(pid: int) -> dict[str, float]:
    """Return for how long each thread of a process has run or waited for a processor."""
    found = {}
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found[thread.name] = _scheduled(thread / "schedstat")
    return found


def _scheduled(path: Path) -> float:
    """Return the seconds of a schedstat file; 0 for a thread that has ended."""
    with suppress(OSError):
        ran, waited, *_ = path.read_text().split()
        return (int(ran) + int(waited)) / _SECOND
    return 0.0
