"""An instance's SSH server: who gets in, and from where; what runs then is session's matter."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import asyncssh

from lab.machines import DROPPED, FOREIGN, FROZEN
from lab.machines.link import Link
from lab.machines.session import Guest, PowerOff, Session

# OpenSSH's own defaults: LoginGraceTime, and one unanswered keepalive too many.
_LOGIN_SECONDS = 120
_KEEPALIVE_SECONDS = 30
_WAITING_CONNECTIONS = 128

# asyncssh tells of every connection and every channel; nobody asked for that.
logging.getLogger("asyncssh").setLevel(logging.ERROR)


class SshServer:
    """Serves SSH on `holder`, a bound socket, between `start` and `stop`.

    `admits(source_address, port)` is asked about each connection, in a thread, since it may wait
    for whoever is waiting for the machines. One that is not admitted gets no answer, as through a
    security group. `strikes()` is asked about the others, in the same way, and may say FOREIGN,
    DROPPED or FROZEN. `authorized_keys(user)` is the text of that file, empty when there is no such
    user.
    """

    def __init__(
        self,
        holder: socket.socket,
        *,
        host_keys: Sequence[asyncssh.SSHKey],
        admits: Callable[[str, int], bool],
        strikes: Callable[[], str],
        authorized_keys: Callable[[str], Awaitable[str]],
        guest: Callable[[str], Guest],
    ) -> None:
        self._holder = holder
        self._host_keys = list(host_keys)
        self._admits = admits
        self._strikes = strikes
        self._authorized_keys = authorized_keys
        self._guest = guest
        self._accepting: asyncio.Task[None] | None = None
        self._handling: set[asyncio.Task[None]] = set()
        self._connections: set[asyncssh.SSHServerConnection] = set()

    async def start(self) -> None:
        """Answer connections."""
        self._holder.listen(_WAITING_CONNECTIONS)
        self._accepting = asyncio.create_task(self._accept())

    async def _options(
        self, strikes: str, link: Link | None
    ) -> asyncssh.SSHServerConnectionOptions:
        keys = self._host_keys
        if strikes == FOREIGN:
            keys = [asyncssh.generate_private_key(key.get_algorithm()) for key in keys]
        options: asyncssh.SSHServerConnectionOptions
        options = await asyncssh.SSHServerConnectionOptions.construct(
            server_factory=lambda: _Server(
                self._authorized_keys,
                self._guest,
                self._connections,
                drops=strikes == DROPPED,
                link=link,
            ),
            server_host_keys=keys,
            encoding=None,
            line_editor=False,
            allow_scp=False,
            agent_forwarding=False,
            x11_forwarding=False,
            password_auth=False,
            kbdint_auth=False,
            gss_host=None,
            login_timeout=_LOGIN_SECONDS,
            keepalive_interval=_KEEPALIVE_SECONDS,
        )
        return options

    async def stop(self) -> None:
        """Drop every connection, and refuse new ones."""
        if self._accepting is None:
            return
        tasks = [self._accepting, *self._handling]
        self._accepting = None
        for task in tasks:
            task.cancel()
        # Ends the listening and keeps the address: the socket stays bound.
        with suppress(OSError):
            self._holder.shutdown(socket.SHUT_RDWR)
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self._connections):
            connection.abort()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, source = await loop.sock_accept(self._holder)
            task = loop.create_task(self._handle(client, source[0]))
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)

    async def _handle(self, client: socket.socket, source: str) -> None:
        port = self._holder.getsockname()[1]
        loop = asyncio.get_running_loop()
        try:
            if await loop.run_in_executor(None, self._admits, source, port):
                strikes = await loop.run_in_executor(None, self._strikes)
                server, link = client, None
                if strikes == FROZEN:
                    server, end = socket.socketpair()
                    link = Link(client, end)
                options = await self._options(strikes, link)
                async with asyncio.TaskGroup() as tasks:
                    if link is not None:
                        tasks.create_task(link.carry())
                    # A client that cannot prove who it is, or goes away, is its own concern.
                    with suppress(OSError, asyncssh.Error):
                        await asyncssh.run_server(server, options=options)
                return
            # Nothing comes back through a security group; only the client can end this.
            with suppress(OSError):
                while await loop.sock_recv(client, 4096):
                    pass
            client.close()
        except asyncio.CancelledError:
            client.close()
            raise


class _Server(asyncssh.SSHServer):
    """One connection: public keys only, and sessions only."""

    def __init__(
        self,
        authorized_keys: Callable[[str], Awaitable[str]],
        guest: Callable[[str], Guest],
        connections: set[asyncssh.SSHServerConnection],
        *,
        drops: bool,
        link: Link | None,
    ) -> None:
        self._authorized_keys = authorized_keys
        self._guest = guest
        self._connections = connections
        self._drops = drops
        self._link = link
        self._connection: asyncssh.SSHServerConnection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self._connection)

    async def begin_auth(self, username: str) -> bool:
        # No key at all is no reason to let anybody in: True means that a proof is needed.
        with suppress(ValueError, PowerOff):
            keys = asyncssh.import_authorized_keys(await self._authorized_keys(username))
            self._connection.set_authorized_keys(keys)
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def session_requested(self) -> asyncssh.SSHServerSession[bytes]:
        if self._drops:
            asyncio.get_running_loop().call_soon(self._connection.abort)
        guest = self._guest(self._connection.get_extra_info("username"))
        return Session(guest, self._link.freeze if self._link else lambda: None)
