"""Limit the total time of an HTTP session, even when a server sends byte by byte.

The timeout of the library requests counts from the last received byte, in the head and in the body
of an answer: a server that sends a byte now and then keeps its client waiting for ever.
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
    """The answer was not complete in time."""


@contextmanager
def session(seconds: float, plain: requests.Session | None = None) -> Iterator[requests.Session]:
    """Yield a session, `plain` if it is given, whose connections are shut down after `seconds`.

    Raises Overdue then, even when the body raised nothing: a truncated head looks complete.
    """
    adapter = _Adapter()
    timer = Timer(seconds, adapter.expire)
    timer.daemon = True
    with plain or requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        timer.start()
        try:
            yield session
        except Exception as error:
            if adapter.expired:
                raise Overdue from error
            raise
        finally:
            timer.cancel()
        if adapter.expired:
            raise Overdue


class _Adapter(HTTPAdapter):
    """An adapter that keeps the sockets of its connections, to shut them down."""

    def __init__(self) -> None:
        super().__init__()
        self.expired = False
        self._sockets: list[Any] = []
        self._lock = Lock()

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pool of a request; its connections register their sockets here."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _registering(pool.ConnectionCls, self._register)
        return pool

    def expire(self) -> None:
        """Shut down all connections, and each that is opened later."""
        with self._lock:
            self.expired = True
            for each in self._sockets:
                _shut(each)

    def _register(self, opened: Any) -> None:
        with self._lock:
            self._sockets.append(opened)
            if self.expired:
                _shut(opened)


def _registering(connection_class: Any, register: Callable[[Any], None]) -> type:
    class Registering(connection_class):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            # Registered before a proxy answers, which may take long.
            opened: socket.socket = super()._new_conn()
            register(opened)
            return opened

        def connect(self) -> None:
            super().connect()
            # TLS has replaced the socket by its own.
            register(self.sock)

    return Registering


def _shut(opened: Any) -> None:
    # TLS within a proxy's TLS is an object that wraps a socket.
    opened = getattr(opened, "socket", opened)
    # A thread that reads from it gets an end of file; after close() it would hang on Linux.
    with suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)
