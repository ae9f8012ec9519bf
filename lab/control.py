"""The control of a site by other processes: Koji's contents, outages, messages on its bus."""

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lab.bus import Bus, BusError
from lab.ec2.server import EC2
from lab.hang_ups import IgnoresHangUps
from lab.koji import Koji, announce
from lab.koji.records import Build, Task
from lab.processes import ProcessError
from lab.running import SiteError


class Control:
    """The server, at a loopback address, of requests to a site.

    Other users of the machine can reach that address too, and `koji.add_build` copies any file that
    the site's user can read: a call has to carry `token`, as one for EC2's pages below /lab/ has.
    """

    def __init__(self, koji: Koji, bus: Bus, ec2: EC2, port: int = 0) -> None:
        self.token = ec2.token
        self._koji = koji
        self._bus = bus
        self._actions: dict[str, Callable[..., Any]] = {
            "koji.add_build": self._add_build,
            "koji.add_task": self._add_task,
            "koji.advance": koji.advance,
            "koji.trouble": koji.trouble,
            "koji.down": koji.down,
            "koji.offline": koji.offline,
            "koji.up": koji.up,
            "ec2.down": ec2.down,
            "ec2.up": ec2.up,
            "ec2.quota": ec2.quota,
            "ec2.enable": ec2.enable,
            "ec2.disable": ec2.disable,
            "bus.publish": bus.publish,
            "relay.stop": bus.stop_relay,
            "relay.start": bus.start_relay,
        }
        self._server = _Server(port, self)
        self.port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="control", daemon=True
        ).start()

    @property
    def url(self) -> str:
        """The URL at which `lab.running.call` finds this site."""
        return f"http://127.0.0.1:{self.port}/"

    def act(self, action: str, arguments: Mapping[str, Any]) -> Any:
        """Do one action. Raises SiteError for one that there is not, or that fails."""
        if action not in self._actions:
            raise SiteError(f"no action {action!r}; there are {', '.join(self._actions)}")
        try:
            return self._actions[action](**arguments)
        except (BusError, ProcessError, OSError, ValueError, TypeError, KeyError) as error:
            raise SiteError(f"{action}: {error}") from error

    def close(self) -> None:
        """Take no more calls."""
        self._server.shutdown()
        self._server.server_close()

    def _add_build(self, files: Mapping[str, list[str]], **about: Any) -> dict[str, Any]:
        build = self._koji.add_build(files=_paths(files), **about)
        message = self._koji.build_message(build.id)
        return self._added(build, announce.BUILD_TOPIC, message)

    def _add_task(self, files: Mapping[str, list[str]], **about: Any) -> dict[str, Any]:
        task = self._koji.add_task(files=_paths(files), **about)
        return self._added(task, announce.TASK_TOPIC, self._koji.task_message(task.id))

    def _added(self, record: Task | Build, topic: str, message: Any) -> dict[str, Any]:
        paths = self._koji.paths(record)
        return {
            "id": record.id,
            "topic": topic,
            "message": message,
            "paths": [str(path) for path in paths],
            "urls": [self._koji.url(path) for path in paths],
        }


def _paths(files: Mapping[str, list[str]]) -> dict[str, list[Path]]:
    return {arch: [Path(name) for name in names] for arch, names in files.items()}


class _Server(IgnoresHangUps, ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, control: Control) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                expected = f"Bearer {control.token}"
                given = self.headers.get("Authorization") or ""
                if not secrets.compare_digest(given.encode(), expected.encode()):
                    self._answer(HTTPStatus.FORBIDDEN, "the token is in site.json")
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                try:
                    result = control.act(self.path.strip("/"), json.loads(body or b"{}"))
                except (SiteError, ValueError) as error:
                    self._answer(HTTPStatus.BAD_REQUEST, str(error))
                else:
                    self._answer(HTTPStatus.OK, json.dumps(result))

            def _answer(self, status: HTTPStatus, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing: the terminal belongs to the site's user."""

        super().__init__(("127.0.0.1", port), Handler)
