"""A TCP connection that can freeze: both ends stay open, and nothing passes any more."""

import asyncio
import socket
from contextlib import suppress

_BYTES = 1 << 16


class Link:
    """Lies between a client's connection and a server in this process, which gets `server`."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self.server, self._inner = socket.socketpair()
        self._inner.setblocking(False)
        self._frozen = False

    def freeze(self) -> None:
        """From now on, all that is sent is lost on the way."""
        self._frozen = True

    async def carry(self) -> None:
        """Carry bytes both ways until an end closes; then both are closed."""
        ways = [
            asyncio.create_task(self._carry(self._client, self._inner)),
            asyncio.create_task(self._carry(self._inner, self._client)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._client.close()
            self._inner.close()

    async def _carry(self, source: socket.socket, target: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await loop.sock_recv(source, _BYTES):
                if not self._frozen:
                    await loop.sock_sendall(target, data)
