"""SIGTERM and SIGINT, as an event that any thread may wait for."""

from __future__ import annotations

import os
import signal
import socket
import threading

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_requested() -> threading.Event:
    """Set by SIGTERM and SIGINT from here on; the second one ends the process where it stands.

    A thread of its own reads of signals from their wake-up descriptor. A handler in Python runs in
    the main thread: not before that wakes, and the kernel may wake another; and a handler that sets
    an event waits for ever when the main thread, at that moment, begins to wait for the event.

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
    # Detached: it is to be open for as long as the process.
    signal.set_wakeup_fd(writing.detach())
    for number in _SIGNALS:
        # Python writes to the descriptor for signals alone that have a handler.
        signal.signal(number, lambda *_of_it: None)
    return stopping
