"""A web server on loopback that serves bytes with Range, and fails in the ways that servers do."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Manner = Literal["well", "without Range", "cut", "stalled", "reset", "slow", "unavailable"]


@dataclass
class Web:
    """What is served, how, and what was asked for."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    manner: Manner = "well"
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def put(self, name: str, content: bytes) -> str:
        """Serve `content`; returns its URL."""
        self.files[f"/{name}"] = content
        return f"{self.address}/{name}"


@contextmanager
def serve() -> Iterator[Web]:
    """Serve until the end of the block."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked.append(f"{self.path} {self.headers.get('Range', '')}".strip())
            if self.path in web.redirects:
                self.send_response(302)
                self.send_header("Location", web.redirects[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif self.path not in web.files:
                self.send_error(404)
            elif web.manner == "unavailable":
                self.send_error(503)
            else:
                self.answer(web.files[self.path])

        def answer(self, content: bytes) -> None:
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            body = content
            if span and web.manner != "without Range":
                first = int(span[1])
                body = content[first : int(span[2]) + 1]
                if not body:
                    self.send_error(416)
                    return
                self.send_response(206)
                last = first + len(body) - 1
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            half = len(body) // 2
            match web.manner:
                case "cut":
                    self.wfile.write(body[:half])
                case "stalled":
                    self.wfile.write(body[:half])
                    web.over.wait(30)
                case "reset":
                    self.wfile.write(body[:half])
                    self.wfile.flush()
                    # What was sent has to arrive first: a reset throws away what was not read.
                    web.over.wait(0.5)
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.connection.shutdown(socket.SHUT_RD)
                    self.connection.close()
                case "slow":
                    for start in range(len(body)):
                        self.wfile.write(body[start : start + 1])
                        if web.over.wait(0.05):
                            return
                case _:
                    self.wfile.write(body)
            web.sent += len(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Clients that hang up are what the tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    web.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield web
    finally:
        web.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
