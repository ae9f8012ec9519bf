"""Notify systemd that a process of Twisted's, hub or consumer, is ready and works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedimg.process import systemd


def keep_alive(reactor: Any, is_alive: Callable[[], bool]) -> None:
    """Notify systemd when `reactor` runs, then feed its watchdog while `is_alive()` is true.

    The reactor sends the notifications, so that systemd restarts a process whose reactor hangs.
    """
    seconds = systemd.limit()

    def beat() -> None:
        if is_alive():
            systemd.notify("WATCHDOG=1")
        reactor.callLater((seconds or 0) / 4, beat)

    def begin() -> None:
        systemd.notify("READY=1")
        if seconds:
            beat()

    reactor.callWhenRunning(begin)
