"""Stands between fedimg and EC2, or Koji: lets a test act on a call before it arrives, or after."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs

import requests


class Proxy:
    """Forwards every call to `target`.

    `before(action)` is asked first, `after(action)` when there is an answer; when one returns True
    the client gets no answer. `calls` has the parameters of each.
    """

    def __init__(self, target: str) -> None:
        self.before: Callable[[str], bool] = lambda action: False
        self.after: Callable[[str], bool] = lambda action: False
        self.calls: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                # The EBS direct API has no actions in its calls: there it is method and path.
                place = f"{self.command} {self.path}"
                form = {} if self.command == "PUT" else parse_qs(body.decode(errors="replace"))
                # Koji's are XML-RPC's methods.
                method = re.search(rb"<methodName>(\w+)</methodName>", body)
                action = form.get("Action", [method[1].decode() if method else place])[0]
                outer.calls.append({name: values[0] for name, values in form.items()})
                if outer.before(action):
                    self.close_connection = True
                    return
                headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
                answer = requests.request(
                    self.command, target + self.path, data=body, headers=headers, timeout=60
                )
                if outer.after(action):
                    self.close_connection = True
                    return
                # With the Date of the answer, not another.
                self.send_response_only(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                        self.send_header(name, value)
                # The answer to HEAD tells the length of what it does not bring.
                length = answer.headers.get("Content-Length", "0")
                brought = self.command != "HEAD"
                self.send_header("Content-Length", str(len(answer.content)) if brought else length)
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_HEAD = do_PUT = do_POST

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                # A client that was killed says no goodbye.
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
