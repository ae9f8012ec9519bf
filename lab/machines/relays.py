"""Unix sockets that lead out of machines' network namespaces to ports of this host's loopback."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from lab.machines.programs import path_of

_LOOK_SECONDS = 0.02
_START_SECONDS = 60.0
_WAITING_CONNECTIONS = 128

#: socat's option for blocks of 64 KiB. With its own of 8 KiB, two in a row take twice the processor
#: time that one took.
LARGE = ("-b", "65536")


class NoRelay(Exception):
    """A relay ended before it listened."""


class Relays:
    """A socket in `folder` for each of `ports`, between `start` and `stop`.

    Each is a program of its own: what machines download is most of what a site moves, and takes its
    way beside the site's own threads.
    """

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self._folder = folder
        self._ports = ports
        self._running: list[asyncio.subprocess.Process] = []

    def to(self, port: int) -> Path:
        """Return the socket that leads to a port."""
        return self._folder / str(port)

    async def start(self) -> None:
        """Listen. Raises NoRelay, with the reason."""
        for port in self._ports:
            listen = f"UNIX-LISTEN:{self.to(port)},fork,backlog={_WAITING_CONNECTIONS}"
            log = self.to(port).with_suffix(".log")
            with log.open("wb") as said:
                # It ends with this thread, which is that of all machines.
                relay = await asyncio.create_subprocess_exec(
                    *[path_of("setpriv"), "--pdeathsig", "KILL", "--"],
                    *[path_of("socat"), *LARGE, listen, f"TCP4:127.0.0.1:{port}"],
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    process_group=0,
                )
            self._running.append(relay)
            async with asyncio.timeout(_START_SECONDS):
                while not self.to(port).exists():
                    if relay.returncode is not None:
                        raise NoRelay(
                            f"socat, which leads machines to port {port} of this host, ended "
                            f"before it listened at {self.to(port)}: {log.read_text().strip()}"
                        )
                    await asyncio.sleep(_LOOK_SECONDS)

    async def stop(self) -> None:
        """Break every connection, and listen no more."""
        for relay in self._running:
            # A connection's own process is in its group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(relay.pid, signal.SIGKILL)
            await relay.wait()
