"""Lets connections through to a machine's SSH, or not, as its security groups say."""

import asyncio
import contextlib
import socket
from collections.abc import Callable

_WAITING_CONNECTIONS = 128
_CHUNK = 64 * 1024
# An emulated machine takes a second or two to start the server's process for a connection.
_BANNER_SECONDS = 4.0
_PAUSE_SECONDS = 0.3


class Gateway:
    """Forwards what comes to `holder`, a bound socket, to `target`, between `start` and `stop`.

    Connections are refused until the machine's SSH has answered for the first time: QEMU's network
    takes any connection at once, and leaves it hanging when nobody in the machine does.
    `admits(source_address, port)` is asked about each connection, in a thread, since it may wait
    for whoever is waiting for the machines. One that is not admitted gets no answer.
    """

    def __init__(
        self, holder: socket.socket, target: tuple[str, int], admits: Callable[[str, int], bool]
    ) -> None:
        self._holder = holder
        self._target = target
        self._admits = admits
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Answer connections, as soon as the machine does."""
        self._run(self._accept())

    async def stop(self) -> None:
        """Drop every connection, and refuse new ones; the address stays taken."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(OSError):
            self._holder.shutdown(socket.SHUT_RDWR)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        while not await self._answers():
            await asyncio.sleep(_PAUSE_SECONDS)
        self._holder.listen(_WAITING_CONNECTIONS)
        while True:
            client, source = await asyncio.get_running_loop().sock_accept(self._holder)
            client.setblocking(False)
            self._run(self._handle(client, source[0]))

    async def _handle(self, client: socket.socket, source: str) -> None:
        loop = asyncio.get_running_loop()
        port = self._holder.getsockname()[1]
        with client, contextlib.suppress(OSError):
            if not await loop.run_in_executor(None, self._admits, source, port):
                # Nothing comes back through a security group; only the client can end this.
                while await loop.sock_recv(client, _CHUNK):
                    pass
                return
            with socket.socket() as machine:
                machine.setblocking(False)
                await loop.sock_connect(machine, self._target)
                await asyncio.gather(_pump(client, machine), _pump(machine, client))

    async def _answers(self) -> bool:
        """Whether the machine's SSH server says its name."""
        loop = asyncio.get_running_loop()
        with socket.socket() as machine, contextlib.suppress(OSError, TimeoutError):
            machine.setblocking(False)
            async with asyncio.timeout(_BANNER_SECONDS):
                await loop.sock_connect(machine, self._target)
                return bool(await loop.sock_recv(machine, _CHUNK))
        return False

    def _run(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _pump(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while chunk := await loop.sock_recv(source, _CHUNK):
        await loop.sock_sendall(target, chunk)
    target.shutdown(socket.SHUT_WR)
