"""Small files read over HTTP from servers that send as they please: the limits hold.

Follows fedimg/sources/deadline.py.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from threading import Event, Thread

import pytest

from fedimg.sources import http, xmlrpc
from fedimg.sources.file_server import Trusted
from fedimg.sources.measure import measure

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"
#: Far from each other: what a request may take, what a server that dribbles takes, and what a busy
#: machine adds.
SECONDS, LONG, BUSY = 1.0, 60.0, 20.0

Dribble = Callable[[bytes, bytes, bytes], str]


@pytest.fixture
def dribbling() -> Iterator[Dribble]:
    """Serve `at_once`, then `slowly` a byte at a time, over and over, then `end`; the address."""
    over = Event()
    threads = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def start(at_once: bytes, slowly: bytes, end: bytes = b"") -> str:
            def serve() -> None:
                try:
                    connection, _ = server.accept()
                except OSError:
                    # Nobody asked, and the test is over.
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(at_once)
                    until = time.monotonic() + LONG
                    try:
                        while slowly and time.monotonic() < until:
                            for byte in slowly:
                                connection.sendall(bytes([byte]))
                                if over.wait(0.05):
                                    return
                        connection.sendall(end)
                    except OSError:
                        # The client has had enough.
                        return

            threads.append(Thread(target=serve))
            threads[-1].start()
            return f"http://127.0.0.1:{server.getsockname()[1]}/file"

        yield start
        over.set()
        server.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def asked(ask: Callable[[], object]) -> str:
    """Return the error for a server that takes too long."""
    began = time.monotonic()
    with pytest.raises(http.NoAnswer) as raised:
        ask()
    assert time.monotonic() - began < BUSY
    return str(raised.value)


@pytest.mark.parametrize(
    ("at_once", "slowly"),
    [
        (b"", b"HTTP/1.1 200 OK "),
        (b"HTTP/1.1 200 OK\r\n", b"X-Some: thing\r\n"),
        (HEAD, b"X-Some-Thing-Without-An-End: "),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"a body without a length "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"a body that never ends "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n", b"a chunk "),
    ],
)
def test_answer_that_comes_byte_by_byte_is_ended_at_the_timeout(
    dribbling: Dribble, at_once: bytes, slowly: bytes
) -> None:
    address = dribbling(at_once, slowly, b"")
    said = asked(lambda: http.get(address, 65536, SECONDS))
    assert said == f"timed out after 1 s waiting for the whole answer of {address}"


def test_measurements_and_calls_are_ended_at_the_timeout(dribbling: Dribble) -> None:
    address = dribbling(HEAD, b"X-Some-Thing-Without-An-End: ", b"")
    assert "after 1 s" in asked(lambda: measure(address, SECONDS, Trusted()))
    address = dribbling(HEAD, b"X-Some-Thing-Without-An-End: ", b"")
    assert "after 1 s" in asked(lambda: xmlrpc.XMLRPCClient(address, SECONDS).call("getAPIVersion"))


def test_slow_proxy_is_ended_at_the_timeout(
    dribbling: Dribble, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = dribbling(b"HTTP/1.1 200 OK\r\n", b"X-Some: thing\r\n", b"").removesuffix("/file")
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    assert "after 1 s" in asked(lambda: http.get("https://composes.example.org/", 5, SECONDS))


def test_answer_in_time_is_read_whole(dribbling: Dribble) -> None:
    address = dribbling(HEAD + b"Last-Modified: then\r\nDate: now\r\n\r\nbytes", b"", b"")
    assert http.get(address, 5, BUSY) == http.Answer(b"bytes", "then", "now")


def test_answer_beyond_the_limit_is_refused(dribbling: Dribble) -> None:
    address = dribbling(HEAD + b"\r\nbytes", b"", b"")
    with pytest.raises(http.TooLong, match="more than 4 bytes"):
        http.get(address, 4, BUSY)


def test_body_that_ends_early_is_no_answer(dribbling: Dribble) -> None:
    address = dribbling(HEAD + b"\r\nbyt", b"", b"")
    with pytest.raises(http.NoAnswer, match="does not answer"):
        http.get(address, 5, BUSY)


@pytest.mark.parametrize("target", ["http://[", "\xff\xfe", "http://\xff/", "http://h:none/"])
def test_redirect_to_an_invalid_url_is_reported(dribbling: Dribble, target: str) -> None:
    answer = f"HTTP/1.1 302 So\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"
    for ask in (
        lambda url: http.get(url, 5, BUSY),
        lambda url: measure(url, BUSY, Trusted()),
        lambda url: xmlrpc.XMLRPCClient(url, BUSY).call("getAPIVersion"),
    ):
        with pytest.raises((http.NoAnswer, http.NotFound)):
            ask(dribbling(answer.encode("latin-1"), b"", b""))


@pytest.mark.parametrize(
    "date",
    [
        None,
        "",
        "now",
        "Fri, 20 Nov 99999 05:00:00 GMT",
        "Fri, 20 Nov 2026 99:00:00 GMT",
        "Fri, 20 Nov 2026 05:00:00 -99999999",
        "(",
        "1" * 500,
    ],
)
def test_impossible_date_header_is_ignored(date: str | None) -> None:
    with pytest.raises(ValueError, match="is not a date"):
        http.seconds_of(date)


@pytest.mark.parametrize(
    ("status", "raised"), [(404, http.NotFound), (302, http.NotFound), (503, http.NoAnswer)]
)
def test_each_error_status_raises_its_exception(
    dribbling: Dribble, status: int, raised: type[Exception]
) -> None:
    answer = f"HTTP/1.1 {status} So\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(raised, match=f"answers {status} So"):
        http.get(dribbling(answer.encode(), b"", b""), 5, BUSY)
