"""The fedmsg-hub process that fedimg listens in: it stops when told, and refuses to run deaf.

What it listens for is in fedimg.consumers.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from fedimg.process import logs, systemd

#: How long the hub may take to stop, in seconds, before it is ended where it stands.
STOP_SECONDS = 0.8


def require_consumer() -> None:
    """End the hub, once it runs, with an error unless KojiConsumer runs in it.

    The hub logs a consumer that it cannot load and goes on without; with setuptools 75.8.0 and
    older it finds none at all, and says nothing.
    """
    from moksha.hub.reactor import reactor

    reactor.callWhenRunning(_check_consumers)


def _check_consumers() -> None:
    import moksha.hub

    # By name: what could not be imported cannot be compared with.
    if not any(type(each).__name__ == "KojiConsumer" for each in moksha.hub._hub.consumers):
        _say(
            "fedmsg-hub did not load KojiConsumer and would listen for nothing; what it logged "
            "above may tell why. Is fedimg installed in the Python that runs fedmsg-hub, with a "
            "setuptools from 75.8.2 to 81?"
        )
        # The reactor swallows SystemExit.
        os._exit(1)


def log_one_line_each() -> None:
    """Log each event as one line once the hub runs; before that it tells of this machine alone."""
    from moksha.hub.reactor import reactor

    reactor.callWhenRunning(logs.one_line_each)


def stop_on_signals(hub: Any, untaken: Callable[[], Sequence[str]]) -> None:
    """Let SIGTERM and SIGINT stop the hub within a second, with exit status 0.

    When `untaken()` has entries, which were heard and could not be stored, they are printed and
    the status is 1.
    """
    from moksha.hub.reactor import reactor

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        # A bare reactor.stop() here would not wake the reactor of an idle hub.
        reactor.callFromThread(stop)

    def stop() -> None:
        systemd.notify("STOPPING=1")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        timer = threading.Timer(STOP_SECONDS, leave)
        timer.daemon = True
        timer.start()
        reactor.addSystemEventTrigger("after", "shutdown", leave)
        hub.stop()
        reactor.stop()

    def leave() -> None:
        status = _status(untaken())
        logging.shutdown()
        # Python would take down all that is loaded first: over a second on a busy machine.
        os._exit(status)

    def install() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)

    # The hub installs handlers of its own just before its reactor runs.
    reactor.callWhenRunning(install)


def keep_alive(moves: Callable[[], bool]) -> None:
    """Tell systemd when the hub runs, and again and again while `moves()`.

    The reactor tells it, so that a hub that hangs is silent, and is started anew.
    """
    from moksha.hub.reactor import reactor

    seconds = systemd.limit()

    def beat() -> None:
        if moves():
            systemd.notify("WATCHDOG=1")
        reactor.callLater((seconds or 0) / 4, beat)

    def begin() -> None:
        systemd.notify("READY=1")
        if seconds:
            beat()

    reactor.callWhenRunning(begin)


def _status(untaken: Sequence[str]) -> int:
    if not untaken:
        return 0
    _say(
        f"stopped with announcements that could not be stored: {', '.join(untaken)}; the worker "
        "asks Koji for them when it next looks for what was missed"
    )
    return 1


def _say(text: str) -> None:
    # Not logged: fedmsg's set-up of logging silences the loggers of modules loaded before it.
    print(f"fedimg: {text}", file=sys.stderr, flush=True)
