"""Run a web server on loopback that supports Range, and fails in the ways that servers do."""

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

Manner = Literal[
    "well",
    "without Range",
    "cut",
    "stalled",
    "silent",
    "reset",
    "slow",
    "unavailable",
    "behind a cache",
]


@dataclass
class Web:
    """The files of the server, its behaviour, and the requests that it received."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    #: What redirects to an address of its own with a signature, and where to.
    signed: dict[str, str] = field(default_factory=dict)
    #: How many answers a signature is good for.
    good_for: int = 1000
    signatures: dict[str, int] = field(default_factory=dict)
    #: ETags of files.
    tags: dict[str, str] = field(default_factory=dict)
    manner: Manner = "well"
    #: How many answers are in that manner; None: all. Then comes another one, and other ETags.
    times: int | None = None
    then: Manner = "well"
    retag: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def spend(self) -> None:
        """Count one response with the behaviour that is set."""
        if self.times is not None:
            self.times -= 1
            if self.times <= 0:
                self.manner, self.times = self.then, None
                self.tags |= self.retag

    def stall(self) -> None:
        """Break off the next answer midway, and send nothing of any other.

        Of an answer that is `stalled` half comes each time, and all of them together take as many
        time limits as the file can be halved.
        """
        self.manner, self.times, self.then = "stalled", 1, "silent"

    def put(self, name: str, content: bytes) -> str:
        """Serve `content`; return its URL."""
        self.files[f"/{name}"] = content
        return f"{self.address}/{name}"


@contextmanager
def serve() -> Iterator[Web]:
    """Serve until the end of the block."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked.append(f"{self.path} {self.headers.get('Range', '')}".strip())
            path, _, signature = self.path.partition("?")
            if path in web.signed:
                signature = f"X-Signature={len(web.signatures)}secret"
                web.signatures[signature] = 0
                self.redirect(f"{web.address}{web.signed[path]}?{signature}")
            elif path in web.redirects:
                self.redirect(web.redirects[path])
            elif path not in web.files:
                self.send_error(404)
            elif signature and not self.signed(signature):
                self.send_error(403)
            elif web.manner == "unavailable":
                web.spend()
                self.send_error(503)
            else:
                self.answer(web.files[path], web.tags.get(path))

        def redirect(self, target: str) -> None:
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"gone")

        def signed(self, signature: str) -> bool:
            if signature not in web.signatures:
                return False
            web.signatures[signature] += 1
            return web.signatures[signature] <= web.good_for

        def answer(self, content: bytes, tag: str | None) -> None:
            manner = web.manner
            anew = self.headers.get("Cache-Control") == "no-cache"
            whole = manner == "without Range" or (manner == "behind a cache" and not anew)
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            body = content
            if span and not whole:
                first = int(span[1])
                body = content[first : int(span[2]) + 1 if span[2] else None]
                if not body:
                    self.send_error(416)
                    return
                self.send_response(206)
                last = first + len(body) - 1
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            if tag:
                self.send_header("ETag", tag)
            self.end_headers()
            web.spend()
            half = len(body) // 2
            match manner:
                case "cut":
                    self.wfile.write(body[:half])
                    body = body[:half]
                case "stalled":
                    self.wfile.write(body[:half])
                    web.over.wait(30)
                case "silent":
                    web.over.wait(30)
                    return
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
            """Ignore clients that close the connection, as the tests do on purpose."""

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
