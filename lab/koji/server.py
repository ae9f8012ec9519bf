"""The running Koji: its contents, hub and files, on a loopback port; and its being down."""

import contextlib
import threading
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lab.hang_ups import IgnoresHangUps
from lab.koji import announce
from lab.koji.clock import Clock
from lab.koji.contents import Contents
from lab.koji.files import send_file
from lab.koji.hub import VERSION, Hub, Unreadable
from lab.koji.records import Value

# Longer than any honest call; a stranger's endless body is cut off here.
MAX_REQUEST = 4 << 20


class Koji(Contents):
    """One Koji. All it knows lies in `folder`, so that a later one there knows it too."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._own_clock = Clock(folder / "clock.json")
        super().__init__(folder, self._own_clock)
        self._hub = Hub(self.records, self.root)
        self._answering = True
        self._server: _Server | None = _Server(port, self._respond, self._date)
        self.port = self._server.server_address[1]

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def hub_url(self) -> str:
        return f"{self.base_url}/kojihub"

    @property
    def top_url(self) -> str:
        """Koji's topurl: what all file paths are under."""
        return f"{self.base_url}/kojifiles"

    def url(self, path: Path) -> str:
        """Return the URL at which a file under `root` is served."""
        return f"{self.top_url}/{path.relative_to(self.root)}"

    def task_message(self, task: int) -> dict[str, Value]:
        """Return the body of the message that Koji's plugin sends when this task ends."""
        found = self.records.find_task(task)
        if found is None:
            raise KeyError(f"Koji has no task {task}")
        return announce.task_message(self.records, found, self.base_url, self.top_url)

    def build_message(self, build: int | str) -> dict[str, Value]:
        """Return the body of the message that Koji's plugin sends when this build is complete."""
        found = self.records.find_build(build)
        if found is None:
            raise KeyError(f"Koji has no build {build}")
        return announce.build_message(self.records, found, self.base_url, self.top_url)

    def advance(self, seconds: float) -> float:
        """Let time pass at once for this Koji, or go back; its time afterwards."""
        return self._own_clock.advance(seconds)

    def trouble(self, number: int, text: str = "") -> None:
        """Have the hub itself fail at the task or build of this number, or with no text no more."""
        self._hub.troubles.pop(number, None)
        if text:
            self._hub.troubles[number] = text

    def wordless(self, number: int, fault: str = "") -> None:
        """Have the hub fail at every answer that has this build or task, a list's too.

        It answers with a `fault` or, with none, with a document that cannot be read.
        """
        self._hub.wordless[number] = fault

    def down(self, refusing: bool = False) -> None:
        """Answer 503 from now on or, `refusing`, do not even accept connections."""
        self._answering = False
        if refusing:
            self._stop()

    def offline(self, message: str = "server is offline") -> None:
        """Answer every call with Koji's fault for an outage, of its database's for example."""
        self._hub.offline = message

    def up(self) -> None:
        """Answer again, at the address of before."""
        self._hub.offline = ""
        if self._server is None:
            self._server = _Server(self.port, self._respond, self._date)
        self._answering = True

    def close(self) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _date(self) -> str:
        """Return the Date of every answer."""
        return formatdate(self.clock(), usegmt=True)

    def _respond(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        if not self._answering:
            request.close_connection = True
            request.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "Koji is down for maintenance")
        elif path.rstrip("/") == "/kojihub" and request.command == "POST":
            self._call(request)
        elif path.startswith("/kojifiles/") and request.command in ("GET", "HEAD"):
            send_file(request, self.root, path.removeprefix("/kojifiles/"))
        elif request.command == "POST" or path.rstrip("/") == "/kojihub":
            request.close_connection = True
            request.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            request.send_error(HTTPStatus.NOT_FOUND, f"hub {self.hub_url}, files {self.top_url}/")

    def _call(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        if length > MAX_REQUEST:
            request.close_connection = True
            request.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        try:
            answer = self._hub.answer(request.rfile.read(length))
        except Unreadable as error:
            request.send_error(HTTPStatus.BAD_REQUEST, explain=str(error))
            return
        request.send_response(HTTPStatus.OK)
        request.send_header("Content-Type", "text/xml")
        request.send_header("Koji-Version", VERSION)
        request.send_header("Content-Length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)


class _Server(IgnoresHangUps, ThreadingHTTPServer):
    """A loopback server with a thread a client, each of which `respond` is called in.

    `date` gives what its answers' Date says.
    """

    daemon_threads = True
    # Connections that wait to be accepted: more than the utility instances of a busy day.
    request_queue_size = 128

    def __init__(
        self,
        port: int,
        respond: Callable[[BaseHTTPRequestHandler], None],
        date: Callable[[], str],
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # An idle client that keeps its connection may not keep a thread for ever.
            timeout = 60

            def do_GET(self) -> None:
                # Clients go away in the middle of a download; that is their right.
                with contextlib.suppress(ConnectionError, TimeoutError):
                    respond(self)

            do_HEAD = do_POST = do_GET

            def date_time_string(self, timestamp: float | None = None) -> str:
                return date() if timestamp is None else super().date_time_string(timestamp)

            def log_message(self, format: str, *args: object) -> None:
                """Leave a site's terminal to its user: log no requests."""

        super().__init__(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.1}, name="koji", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()
