"""Bound what a machine may send over SSH."""

from __future__ import annotations

import socket

#: Most bytes of the beginning of a connection that are kept, to quote what a server said.
KEPT = 200
#: Most bytes that are received at once.
CHUNK = 32768


class BoundedSocket(socket.socket):
    """A socket that receives no more bytes than allowed, and keeps the first ones.

    It derives from socket.socket because paramiko uses more of it than send and recv.
    """

    def __init__(self, connected: socket.socket, allowed: int) -> None:
        timeout = connected.gettimeout()
        super().__init__(fileno=connected.detach())
        self.settimeout(timeout)
        self.verdict = ""
        self.beginning = b""
        self.allow(allowed)

    def allow(self, count: int) -> None:
        """Allow `count` bytes from now on."""
        self._allowed = self._left = count

    def recv(self, count: int, flags: int = 0) -> bytes:
        """Receive at most `count` bytes; beyond the limit, none, as from a closed connection."""
        # socket.recv allocates `count` bytes, which the machine may have chosen, before any arrive.
        data = super().recv(min(count, CHUNK), flags)
        self._left -= len(data)
        if len(self.beginning) < KEPT:
            self.beginning += data[: KEPT - len(self.beginning)]
        if self._left < 0:
            self.verdict = f"the machine sent more than {self._allowed >> 10} KiB"
            return b""
        return data
