"""Notify systemd (sd_notify) that a service is ready, works and stops.

Without systemd the functions do nothing. The callers decide whether the service works.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable

import sqlalchemy as sa
from sqlalchemy import event

#: The exit status of a service whose configuration a person has to correct (EX_CONFIG of
#: sysexits.h), after which its unit does not start it again.
MISCONFIGURED = 78

_log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send systemd a state such as `READY=1`; log a warning if the socket cannot be written to."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    # sd_notify(3): a leading @ stands for a name in Linux's abstract namespace.
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(state.encode(), address)
    except OSError as error:
        _log.warning("cannot notify systemd of %s at %s: %s", state, path, error)


def limit() -> float | None:
    """Return the watchdog's limit (WatchdogSec) in seconds; None if there is none."""
    if os.environ.get("WATCHDOG_PID") not in (None, str(os.getpid())):
        return None
    value = os.environ.get("WATCHDOG_USEC", "")
    return int(value) / 1e6 if value.isdecimal() and int(value) else None


def wait(stopping: threading.Event, silent: Callable[[float], Iterable[str]]) -> None:
    """Wait for `stopping`, and meanwhile notify systemd at intervals that the service works.

    `silent(seconds)` returns the names of threads that have hung for so long. While there are any,
    systemd gets no notification, and finally restarts the service.
    """
    seconds = limit()
    if seconds is None:
        stopping.wait()
        return
    while not stopping.wait(seconds / 4):
        if hanging := sorted(silent(seconds / 2)):
            _log.error(
                "no activity for %g s in: %s; systemd restarts this service unless that changes",
                seconds / 2,
                ", ".join(hanging),
            )
        else:
            notify("WATCHDOG=1")


class Watchdog:
    """Record when each of the named threads last used the database.

    Each loop of a worker polls the database several times a second: a loop that does not has hung,
    or the database does not answer.
    """

    def __init__(self, engine: sa.Engine, threads: Iterable[str]) -> None:
        now = time.monotonic()
        self._seen = dict.fromkeys(threads, now)

        event.listen(engine, "after_cursor_execute", self.see)

    def see(self, *_arguments: object) -> None:
        """Note that the current thread has used the database, or what another one read there."""
        name = threading.current_thread().name
        if name in self._seen:
            self._seen[name] = time.monotonic()

    def expect(self, thread: str) -> None:
        """Watch this thread as well from now on."""
        self._seen[thread] = time.monotonic()

    def excuse(self, threads: Iterable[str]) -> None:
        """Watch these threads no more."""
        for thread in threads:
            self._seen.pop(thread, None)

    def silent(self, seconds: float) -> list[str]:
        """Return the threads that have not used the database for `seconds`."""
        now = time.monotonic()
        return [name for name, seen in list(self._seen.items()) if now - seen > seconds]
