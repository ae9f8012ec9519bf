"""Lets connections through to a machine's SSH, or not, as its security groups say."""

import asyncio
import contextlib
import enum
import socket
from collections.abc import Callable
from pathlib import Path

_WAITING_CONNECTIONS = 128
_CHUNK = 64 * 1024
# What is sent to a machine without network is lost, and sent anew soon.
_NETWORK_SECONDS = 4.0
# An emulated machine takes a second or two to start the server's process for a connection, on a
# busy host ten times that; whoever gives up sooner leaves it with ever more of them.
_BANNER_SECONDS = 60.0
_PAUSE_SECONDS = 0.3


class _Heard(enum.Enum):
    """The outcome of a connection to the machine's SSH port."""

    NOTHING = enum.auto()
    REFUSAL = enum.auto()
    SERVER = enum.auto()


class Gateway:
    """Forwards what comes to `holder`, a bound socket, to the Unix socket `target`, between `start`
    and `stop`.

    QEMU's network takes any connection at once, and only then looks for somebody in the machine.
    So until its SSH server has answered for the first time, what connects finds what it would find
    at the machine itself: no answer to TCP as long as it has no network, and a refusal when nobody
    listens there. `admits(source_address, port)` is asked about each connection, in a thread, since
    it may wait for whoever is waiting for the machines. One that is not admitted gets no answer.
    """

    def __init__(
        self, holder: socket.socket, target: Path, admits: Callable[[str, int], bool]
    ) -> None:
        self._holder = holder
        self._target = target
        self._admits = admits
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopper: socket.socket | None = None
        self._listening = False
        #: Whether the machine has been heard on its network.
        self.heard = False

    def start(self) -> None:
        """Answer connections, as soon as the machine does."""
        self._run(self._accept())

    async def stop(self) -> None:
        """Drop every connection, and refuse new ones; the address stays taken."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        self._refuse()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        self._be_silent()
        while (heard := await self._ask()) is not _Heard.SERVER:
            if heard is _Heard.REFUSAL:
                self.heard = True
                self._refuse()
            await asyncio.sleep(_PAUSE_SECONDS)
        self.heard = True
        self._refuse()
        self._listen(_WAITING_CONNECTIONS)
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
            with socket.socket(socket.AF_UNIX) as machine:
                machine.setblocking(False)
                await loop.sock_connect(machine, str(self._target))
                await _both_ways(client, machine)

    def _be_silent(self) -> None:
        """Leave every connection without an answer, as Linux does while a listener's queue is full.

        The queue has room for the one connection that is made here.
        """
        self._listen(0)
        self._stopper = socket.create_connection(self._holder.getsockname())

    def _listen(self, waiting: int) -> None:
        self._holder.listen(waiting)
        self._listening = True

    def _refuse(self) -> None:
        """Refuse every connection, as Linux does on a port that is bound and not listened on."""
        # A socket that does not listen would remember it, and so would all that it accepts later:
        # they would be at their end from the beginning.
        if self._listening:
            self._holder.shutdown(socket.SHUT_RDWR)
            self._listening = False
        if self._stopper is not None:
            self._stopper.close()
            self._stopper = None

    async def _ask(self) -> _Heard:
        """Return whether the machine's SSH server says its name."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as machine:
            machine.setblocking(False)
            try:
                async with asyncio.timeout(_BANNER_SECONDS if self.heard else _NETWORK_SECONDS):
                    await loop.sock_connect(machine, str(self._target))
                    said = await loop.sock_recv(machine, _CHUNK)
            except TimeoutError:
                return _Heard.NOTHING
            except OSError:
                said = b""
        # QEMU hangs up when the machine has refused; it does so as well when it ends.
        return _Heard.SERVER if said else _Heard.REFUSAL

    def _run(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _both_ways(client: socket.socket, machine: socket.socket) -> None:
    pumps = [
        asyncio.create_task(_pump(client, machine)),
        asyncio.create_task(_pump(machine, client)),
    ]
    try:
        await asyncio.gather(*pumps)
    finally:
        # One that is left when the other fails would still read from the number of a closed socket:
        # whatever has that number next would never be heard on this loop.
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while chunk := await loop.sock_recv(source, _CHUNK):
        await loop.sock_sendall(target, chunk)
    target.shutdown(socket.SHUT_WR)
