"""An HTTP session that ends when its time is over, however its servers dribble.

A time-out of requests' counts from the last byte that came: a server that sends one now and then is
waited for without an end, in the head of its answer as in its body.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Timer
from typing import Any

import requests
from requests.adapters import HTTPAdapter


class Overdue(Exception):
    """The time was over before the answer was."""


@contextmanager
def session(seconds: float, plain: requests.Session | None = None) -> Iterator[requests.Session]:
    """A session, the `plain` one if it is given, whose connections end after so many seconds.

    Raises Overdue then, whatever was made of the broken answer: a head that breaks off looks whole.
    """
    adapter = _Adapter()
    timer = Timer(seconds, adapter.break_off)
    timer.daemon = True
    with plain or requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        timer.start()
        try:
            yield session
        except Exception as error:
            if adapter.over:
                raise Overdue from error
            raise
        finally:
            timer.cancel()
        if adapter.over:
            raise Overdue


class _Adapter(HTTPAdapter):
    """Knows the sockets of its connections."""

    def __init__(self) -> None:
        super().__init__()
        self.over = False
        self._sockets: list[Any] = []
        self._lock = Lock()

    def get_connection_with_tls_context(self, *given: Any, **named: Any) -> Any:
        """The way from a request to its pool, whose connections tell us of their sockets."""
        pool: Any = super().get_connection_with_tls_context(*given, **named)
        pool.ConnectionCls = _telling(pool.ConnectionCls, self._know)
        return pool

    def break_off(self) -> None:
        """End all connections, and each that is still to come."""
        with self._lock:
            self.over = True
            for each in self._sockets:
                _shut(each)

    def _know(self, opened: Any) -> None:
        with self._lock:
            self._sockets.append(opened)
            if self.over:
                _shut(opened)


def _telling(kind: Any, know: Callable[[Any], None]) -> type:
    class Telling(kind):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            # A proxy may take its time before there is a connection.
            opened: socket.socket = super()._new_conn()
            know(opened)
            return opened

        def connect(self) -> None:
            super().connect()
            # TLS has put one of its own in its place.
            know(self.sock)

    return Telling


def _shut(opened: Any) -> None:
    # TLS within a proxy's TLS is no socket, and has one.
    opened = getattr(opened, "socket", opened)
    # Whoever reads from it gets an end; closed by another thread, it would hang on Linux.
    with suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)
