"""Turn SIGTERM and SIGINT into an event that any thread can wait for."""

from __future__ import annotations

import os
import signal
import socket
import threading

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_requested() -> threading.Event:
    """Return an event that the next SIGTERM or SIGINT sets; a second signal exits with status 0.

    A thread reads the signals from Python's wake-up descriptor. A handler in Python would run only
    when the main thread wakes, while the kernel may wake another thread; and a handler that sets an
    event deadlocks if the main thread is just beginning to wait for that event.

    Only the main thread may call this.
    """
    stopping = threading.Event()
    reading, writing = socket.socketpair()
    writing.setblocking(False)

    def listen() -> None:
        while received := reading.recv(1):
            if received[0] not in _SIGNALS:
                continue
            if stopping.is_set():
                os._exit(0)
            stopping.set()

    threading.Thread(target=listen, name="signals", daemon=True).start()
    # Detached, so that the descriptor stays open as long as the process runs.
    signal.set_wakeup_fd(writing.detach())
    for number in _SIGNALS:
        # Python writes only signals that have a handler to the descriptor.
        signal.signal(number, lambda *_arguments: None)
    return stopping
