"""Run the web process: one HTTP server for each listen address, until a signal."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Protocol

import uvicorn

from fedimg.config import ConfigError, ConfigUnusableNow, Settings
from fedimg.config.web import split_address
from fedimg.process import systemd
from fedimg.process.signals import stop_requested
from fedimg.store.reader import Reader
from fedimg.web.catalogue_site import catalogue_site
from fedimg.web.guard import Guard
from fedimg.web.operations import operations

#: Seconds that requests in progress have to end when the process is stopped.
_STOP_SECONDS = 5
#: Seconds for which a connection stays open after an answer; uvicorn has no limit before the first.
_IDLE_SECONDS = 15
#: Most connections and requests at once of one server; it answers 503 to more.
_AT_ONCE = 100
#: Polling interval of the servers' state, in seconds.
_LOOK_SECONDS = 0.2

_log = logging.getLogger(__name__)


def run_web(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status: 1 if a server has ended by itself.

    systemd's watchdog is notified as long as every server's loop turns.

    Raises ConfigError if nothing is to be served, ConfigUnusableNow if an address cannot be
    listened at.
    """
    stopping = stop_requested()
    reader = Reader(settings.state_directory, settings.web.database or settings.database)
    with closing(reader):
        servers = [
            _Server(name, address, app) for name, (address, app) in _sites(settings, reader).items()
        ]
        for server in servers:
            server.start()
        running = True
        ready = False
        watchdog = Watchdog(servers)
        while running and not stopping.wait(_LOOK_SECONDS):
            running = all(server.running for server in servers)
            if not ready and all(server.ready for server in servers):
                ready = True
                systemd.notify("READY=1")
            if ready:
                watchdog.feed()
        systemd.notify("STOPPING=1")
        for server in servers:
            server.stop()
    return 0 if running else 1


def _sites(settings: Settings, reader: Reader) -> Mapping[str, tuple[str, Guard]]:
    """Return what is served: a name for the log, the address and the application."""
    web = settings.web
    sites: dict[str, tuple[str, Guard]] = {}
    if web.operations:
        sites["operations"] = (web.operations, operations(settings, reader))
    if web.catalogue and settings.catalogue.directory:
        sites["catalogue"] = (web.catalogue, catalogue_site(settings))
    if not sites:
        raise ConfigError(
            "nothing to serve: in fedimg.toml web.operations is empty, and so is web.catalogue or "
            "catalogue.directory"
        )
    return sites


class _Ticking(uvicorn.Server):
    """A server that knows when its loop last turned, in seconds of the monotonic clock."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.turned = time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Note the time; uvicorn calls this ten times a second."""
        self.turned = time.monotonic()
        return await super().on_tick(counter)


class _Loop(Protocol):
    """A server with a loop that turns while it works."""

    def silent(self, seconds: float) -> bool:
        """Tell whether it has not turned for `seconds`."""


class Watchdog:
    """Notifies systemd four times in its limit, unless a server's loop hung for half of it."""

    def __init__(self, servers: Sequence[_Loop]) -> None:
        self._servers = servers
        self._limit = systemd.limit()
        self._next = 0.0

    def feed(self) -> None:
        """Notify systemd when it is time to."""
        if self._limit is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._limit / 4
        hanging = [server for server in self._servers if server.silent(self._limit / 2)]
        if not hanging:
            systemd.notify("WATCHDOG=1")


class _Server:
    """An HTTP server in a thread of its own. Raises ConfigUnusableNow if the
    address cannot be used.
    """

    def __init__(self, name: str, address: str, app: Guard) -> None:
        self._name = name
        self._socket = _listen(name, address)
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            # The log has what happens, and a proxy has who asked for what.
            log_config=None,
            access_log=False,
            server_header=False,
            # No page tells a client's address, so that no proxy has to be believed.
            proxy_headers=False,
            limit_concurrency=_AT_ONCE,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        self._server = _Ticking(config)
        # uvicorn leaves signals alone in any thread but the main one.
        self._thread = threading.Thread(target=self._run, name=f"web {name}", daemon=True)

    @property
    def ready(self) -> bool:
        """Tell whether the server answers."""
        return self._server.started

    def silent(self, seconds: float) -> bool:
        """Tell whether the server's loop has not turned for `seconds`."""
        return time.monotonic() - self._server.turned > seconds

    @property
    def running(self) -> bool:
        """Tell whether the server's thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the server."""
        host, port = self._socket.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        _log.info("serving %s at http://%s:%d/", self._name, shown, port)
        self._thread.start()

    def stop(self) -> None:
        """Stop the server after the requests in progress."""
        self._server.should_exit = True
        self._thread.join(_STOP_SECONDS + 1)

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])


def _listen(name: str, address: str) -> socket.socket:
    host, port = split_address(address)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise ConfigUnusableNow(
            f"cannot listen at web.{name} = {address}: {error.strerror or error}; another program "
            "may use the port, or this machine may not have the address"
        ) from error
