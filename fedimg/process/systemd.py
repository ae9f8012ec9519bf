"""What a service tells systemd (sd_notify): that it is ready, and, again and again, that it works.

Without systemd all of this does nothing. What working means, each process says for itself.
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

_log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send systemd `READY=1`, `WATCHDOG=1` and the like; a socket that is not there is let be."""
    place = os.environ.get("NOTIFY_SOCKET")
    if not place:
        return
    # sd_notify(3): a leading @ stands for a name in Linux's abstract namespace.
    address = "\0" + place[1:] if place.startswith("@") else place
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(state.encode(), address)
    except OSError as error:
        _log.warning("cannot tell systemd %s: %s", state, error)


def limit() -> float | None:
    """The seconds after which systemd ends this process unless it is told; None for never."""
    if os.environ.get("WATCHDOG_PID") not in (None, str(os.getpid())):
        return None
    given = os.environ.get("WATCHDOG_USEC", "")
    return int(given) / 1e6 if given.isdecimal() and int(given) else None


def wait(stopping: threading.Event, silent: Callable[[float], Iterable[str]]) -> None:
    """Wait for `stopping`, and tell systemd meanwhile that all is well.

    `silent(seconds)` names what has not moved for so long: while there is anything, systemd is
    told nothing, and starts the process anew.
    """
    seconds = limit()
    if seconds is None:
        stopping.wait()
        return
    while not stopping.wait(seconds / 4):
        if still := sorted(silent(seconds / 2)):
            _log.error("%s: no sign of life for %g s", ", ".join(still), seconds / 2)
        else:
            notify("WATCHDOG=1")


class Watchdog:
    """Sees which threads use a database, by their names.

    Each of a worker's loops asks the database for work several times a second: one that does not
    hangs, and so does a database that answers none of them.
    """

    def __init__(self, engine: sa.Engine, threads: Iterable[str]) -> None:
        now = time.monotonic()
        self._seen = dict.fromkeys(threads, now)

        @event.listens_for(engine, "after_cursor_execute")
        def see(*_of_it: object) -> None:
            name = threading.current_thread().name
            if name in self._seen:
                self._seen[name] = time.monotonic()

    def expect(self, thread: str) -> None:
        """From now on this thread is to be seen, too."""
        self._seen[thread] = time.monotonic()

    def excuse(self, threads: Iterable[str]) -> None:
        """These threads have done their work."""
        for thread in threads:
            self._seen.pop(thread, None)

    def silent(self, seconds: float) -> list[str]:
        """The threads that were not seen for so long."""
        now = time.monotonic()
        return [name for name, seen in list(self._seen.items()) if now - seen > seconds]
