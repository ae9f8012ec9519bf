"""Make fedmsg-hub stop on signals, report to systemd, and refuse to run without the consumer.

The consumer itself is in fedimg.consumers.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from fedimg.bus import reactor_watchdog
from fedimg.process import logs, systemd

#: Timeout for the hub to stop, in seconds, after which the process exits at once.
STOP_SECONDS = 0.8


def require_consumer() -> None:
    """End the started hub with status 1 unless it has loaded KojiConsumer.

    The hub itself logs a consumer that it cannot load and runs without it; with setuptools 75.8.0
    and older it finds no consumer at all, and logs nothing.
    """
    from moksha.hub.reactor import reactor

    reactor.callWhenRunning(_check_consumers)


def _check_consumers() -> None:
    import moksha.hub

    # Compare names: a module that cannot be imported has no class to compare.
    if not any(type(each).__name__ == "KojiConsumer" for each in moksha.hub._hub.consumers):
        _print_error(
            "fedmsg-hub ends because it did not load KojiConsumer and would receive nothing; the "
            "log above may say why. Check that fedimg is installed for the Python that runs "
            "fedmsg-hub, with setuptools 75.8.2 to 81"
        )
        # The reactor swallows SystemExit.
        os._exit(1)


def log_one_line_each() -> None:
    """Log each event as one line as soon as the hub runs; earlier events hold no foreign text."""
    from moksha.hub.reactor import reactor

    reactor.callWhenRunning(logs.one_line_each)


def stop_on_signals(hub: Any, unstored: Callable[[], Sequence[str]]) -> None:
    """Let SIGTERM and SIGINT stop the hub within a second, with exit status 0.

    `unstored` returns the entries that were received and could not be stored: when there are any,
    they are printed on standard error and the exit status is 1.
    """
    from moksha.hub.reactor import reactor

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        # reactor.stop() called here would not wake the reactor of an idle hub.
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
        status = _status(unstored())
        logging.shutdown()
        # An orderly exit of Python takes over a second on a busy machine.
        os._exit(status)

    def install() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)

    # The hub installs its own handlers just before its reactor runs.
    reactor.callWhenRunning(install)


def keep_alive(is_alive: Callable[[], bool]) -> None:
    """Notify systemd that the hub is ready, then feed its watchdog while `is_alive()` is true."""
    from moksha.hub.reactor import reactor

    reactor_watchdog.keep_alive(reactor, is_alive)


def say_it_works(say: Callable[[], object], interval: float) -> None:
    """Call `say` in a thread at every `interval` seconds, as long as the reactor of the hub turns.

    The database may be slow, and the reactor must not wait for it.
    """
    from moksha.hub.reactor import reactor

    def loop() -> None:
        while True:
            turned = threading.Event()
            reactor.callFromThread(turned.set)
            if turned.wait(interval):
                say()
            time.sleep(interval)

    reactor.callWhenRunning(
        threading.Thread(target=loop, name="saying that the hub works", daemon=True).start
    )


def _status(unstored: Sequence[str]) -> int:
    if not unstored:
        return 0
    _print_error(
        f"stopped before these announcements could be stored: {', '.join(unstored)}; the worker "
        "finds them in Koji at its next search for missed builds"
    )
    return 1


def _print_error(text: str) -> None:
    # Printed, because fedmsg's logging configuration silences the loggers of modules loaded
    # earlier.
    logs.print_error(f"fedimg: {text}")
