"""Tell how long a process takes to stop, the waits for a busy machine's processors left out."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

_SECOND = 1e9


def stop(
    process: subprocess.Popen[bytes],
    number: signal.Signals = signal.SIGTERM,
    patience: float = 60,
) -> tuple[int, float]:
    """Send a signal to a process; return its exit status and for how many seconds it then slept.

    It slept while none of its threads ran or waited for a processor (schedstat of proc(5)): that is
    what it takes on an idle machine beyond its own work. Fails after `patience` seconds.
    """
    ours, began = _scheduled(Path("/proc/thread-self/schedstat")), time.monotonic()
    before = _threads(process.pid)
    latest = dict(before)
    process.send_signal(number)
    while (status := process.poll()) is None:
        assert time.monotonic() - began < patience, f"it runs {patience} s after {number.name}"
        # A thread that ended is counted as it was last seen.
        latest |= _threads(process.pid)
        time.sleep(0.005)
    took = time.monotonic() - began
    # We see the end only when a processor is ours.
    took -= _scheduled(Path("/proc/thread-self/schedstat")) - ours
    busy = sum(latest.values()) - sum(before.values())
    return status, max(0.0, took - busy)


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
