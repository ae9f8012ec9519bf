"""A TCP connection that can freeze: both ends stay open, and nothing passes any more."""

import asyncio
import socket
from contextlib import suppress

_BYTES = 1 << 16


class Link:
    """Joins two connected sockets, which are its own from then on."""

    def __init__(self, one: socket.socket, other: socket.socket) -> None:
        self._one, self._other = one, other
        for end in (one, other):
            end.setblocking(False)
        self._frozen = False

    def freeze(self) -> None:
        """From now on nothing arrives, and who sends much is not rid of it."""
        self._frozen = True

    async def carry(self) -> None:
        """Carry bytes both ways until an end closes, or this is cancelled; then close both.

        A link that is frozen does not notice that an end closes.
        """
        ways = [
            asyncio.create_task(self._carry(self._one, self._other)),
            asyncio.create_task(self._carry(self._other, self._one)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._one.close()
            self._other.close()

    async def _carry(self, source: socket.socket, target: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await loop.sock_recv(source, _BYTES):
                if self._frozen:
                    await asyncio.Event().wait()
                await loop.sock_sendall(target, data)
