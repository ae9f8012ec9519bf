"""Stands between a client and a server of any protocol: a line that can be cut, and mended."""

from __future__ import annotations

import selectors
import socket
import threading

_AT_ONCE = 65536


class Line:
    """Forwards what comes to its `port` to another on loopback, and back.

    While it is cut nothing passes, and nobody is told: connections stay open, and new ones get no
    answer, as when a cable is pulled. What was sent meanwhile arrives when it is mended.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._selector = selectors.DefaultSelector()
        self._whole = threading.Event()
        self._whole.set()
        self._closed = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._selector.register(self._server, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="line", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Let nothing pass."""
        self._whole.clear()

    def mend(self) -> None:
        """Let everything pass again, and first what was held up."""
        self._whole.set()

    def close(self) -> None:
        """End, with all connections."""
        self._closed = True
        self._whole.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(0.1):
                self._whole.wait()
                if self._closed:
                    return
                if key.data is None:
                    self._join()
                # Both ends may have had news: the first may have closed the second, whose number
                # a new connection may have by now.
                elif self._selector.get_map().get(key.fd) is key:
                    self._pass(key.fileobj, key.data)

    def _join(self) -> None:
        near, _ = self._server.accept()
        far = socket.create_connection(("127.0.0.1", self._target))
        self._selector.register(near, selectors.EVENT_READ, far)
        self._selector.register(far, selectors.EVENT_READ, near)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            data = source.recv(_AT_ONCE)
            sink.sendall(data)
        except OSError:
            data = b""
        if not data:
            for end in (source, sink):
                self._selector.unregister(end)
                end.close()
