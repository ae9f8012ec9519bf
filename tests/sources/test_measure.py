"""An image's size and version, as file servers give them, and answers that are not believed.

Follows fedimg/sources/file_server.py.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fedimg.identity import Validator
from fedimg.images import LARGEST
from fedimg.sources import http
from fedimg.sources.file_server import Trusted
from fedimg.sources.measure import Measured, measure
from lab.koji import Koji

#: Enough for any busy machine, and too little for a server that dribbles.
SECONDS, SOON = 20.0, 1.0
DATE = "Sat, 28 Nov 2026 10:00:00 GMT"

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve answers by path, each a status and its headers; the address of one."""
    answers: dict[str, tuple[int, dict[str, str]]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers = answers[self.path.partition("?")[0]]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()

    def add(status: int, headers: dict[str, str], path: str = "/a.raw.xz") -> str:
        answers[path] = (status, headers)
        return f"http://127.0.0.1:{server.server_address[1]}{path}"

    yield add
    server.shutdown()
    thread.join()
    server.server_close()


def test_file_of_a_real_server_has_its_size_and_validator(koji: Koji) -> None:
    file = koji.root / "Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"
    file.write_bytes(b"12345")
    found = measure(koji.url(file), SECONDS, Trusted())
    assert found.size == 5
    assert found.validator.etag
    assert found.validator.modified


@pytest.mark.parametrize(
    ("status", "headers", "size"),
    [
        (206, {"Content-Range": "bytes 0-0/70"}, 70),
        (206, {"Content-Range": f"bytes 0-0/{LARGEST}"}, LARGEST),
        # One that knows no ranges, as with a HEAD.
        (200, {"Content-Length": "70"}, 70),
        (200, {}, None),
        (416, {"Content-Range": "bytes */0"}, None),
        # What cannot be.
        (206, {"Content-Range": "bytes 0-0/*"}, None),
        (206, {"Content-Range": "bytes 0-0/-70"}, None),
        (206, {"Content-Range": f"bytes 0-0/{LARGEST + 1}"}, None),
        (206, {"Content-Range": f"bytes 0-0/{'9' * 4000}"}, None),
        (206, {"Content-Range": "bytes 0-0/\x1b70"}, None),
        (206, {"Content-Length": "1"}, None),
        (200, {"Content-Length": "0"}, None),
        # The size of something else.
        (200, {"Content-Length": "70", "Content-Encoding": "gzip"}, None),
    ],
)
def test_plausible_size_of_a_server_is_taken(
    serve: Serve, status: int, headers: dict[str, str], size: int | None
) -> None:
    assert measure(serve(status, headers), SECONDS, Trusted()).size == size


def test_invalid_validator_is_left_out(serve: Serve) -> None:
    said = {"Content-Range": "bytes 0-0/70", "ETag": '"\x1b[2J"', "Last-Modified": DATE}
    assert measure(serve(206, said), SECONDS, Trusted()) == Measured(70, Validator(None, DATE))


@pytest.mark.parametrize(
    ("status", "raised"),
    [(404, http.NotFound), (403, http.NotFound), (503, http.NoAnswer), (429, http.NoAnswer)],
)
def test_lasting_refusals_are_distinguished_from_passing_ones(
    serve: Serve, status: int, raised: type[Exception]
) -> None:
    url = serve(status, {"Content-Length": "0"})
    with pytest.raises(raised, match=f"a.raw.xz answers {status}$"):
        measure(url, SECONDS, Trusted())


def test_redirect_is_followed_to_the_own_host_and_to_those_that_are_trusted(serve: Serve) -> None:
    there = serve(206, {"Content-Range": "bytes 0-0/70"}, "/b.raw.xz")
    assert measure(serve(302, {"Location": there}), SECONDS, Trusted()).size == 70
    elsewhere = there.replace("127.0.0.1", "localhost") + "?signature=geheim"
    url = serve(302, {"Location": elsewhere, "Content-Length": "0"})
    assert measure(url, SECONDS, Trusted(["localhost"])).size == 70
    with pytest.raises(http.NotFound, match=r"redirects to localhost, .*ec2\.redirect_hosts"):
        measure(url, SECONDS, Trusted())


def test_signed_address_is_in_no_text(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}/b.raw.xz?signature=geheim"
    dead = serve(302, {"Location": closed, "Content-Length": "0"})
    with pytest.raises(http.NoAnswer, match="does not answer: Connection refused") as raised:
        measure(dead, SECONDS, Trusted())
    assert "geheim" not in str(raised.value)
    gone = serve(404, {"Content-Length": "0"}, "/b.raw.xz") + "?signature=geheim"
    with pytest.raises(http.NotFound, match="a.raw.xz answers 404") as refused:
        measure(serve(302, {"Location": gone, "Content-Length": "0"}), SECONDS, Trusted())
    assert "geheim" not in str(refused.value)
    away = gone.replace("/b", "/c").replace("127.0.0.1", "localhost")
    serve(302, {"Location": "http://example.invalid/x", "Content-Length": "0"}, "/c.raw.xz")
    with pytest.raises(http.NotFound, match="redirects to example.invalid") as refused:
        measure(
            serve(302, {"Location": away, "Content-Length": "0"}), SECONDS, Trusted(["localhost"])
        )
    assert "geheim" not in str(refused.value)


def test_redirect_to_an_invalid_address_is_a_refusal(serve: Serve) -> None:
    url = serve(302, {"Location": "http://[::1/x", "Content-Length": "0"})
    with pytest.raises(http.NotFound, match="not a URL|not an http"):
        measure(url, SECONDS, Trusted())


def test_silent_server_is_given_up_at_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.raw.xz"
        began = time.monotonic()
        with pytest.raises(http.NoAnswer, match="a.raw.xz"):
            measure(url, SOON, Trusted())
        assert time.monotonic() - began < SECONDS
