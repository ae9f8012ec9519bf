"""Untrusted text is quoted in errors, logs, answers, messages and rows."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedimg.aws.write.download import Download
from fedimg.aws.write.image_errors import ImageUnusable
from fedimg.aws.write.image_size import image_size
from fedimg.bus.publisher import BusError
from fedimg.cli.output import Output
from fedimg.config import Koji
from fedimg.exceptions import EC2ServiceException
from fedimg.images import Architecture, RawImage
from fedimg.sources import http, lookup
from fedimg.sources.file_server import Trusted
from fedimg.sources.koji import KojiHub, refusal
from fedimg.sources.xmlrpc import XMLRPCClient
from fedimg.ssh import client
from fedimg.store.store import Store, StoreError
from fedimg.untrusted.quoting import LONGEST, QUOTED, one_line, plain, plain_values, quoted

#: A colour, a second line with a priority of its own, a secret, and more than anybody reads.
HOSTILE = (
    "\x1b[31mno\r\n<3>forged: all is well\x07 aws_secret_access_key=hunter2hunter2 "
    "https://h/?X-Amz-Signature=hunter2 " + "x" * 5000
)
SECRET = "hunter2"


def fit(text: str, longest: int = LONGEST) -> bool:
    """Return whether a text may be shown to an operator."""
    return text.isprintable() and SECRET not in text and len(text) <= longest


@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= QUOTED
    assert one_line(line) == line


def test_secret_that_is_cut_at_the_limit_is_hidden_first() -> None:
    said = "x" * (QUOTED - 40) + " aws_secret_access_key=" + SECRET * 20
    assert SECRET[:3] not in one_line(said)


def test_escape_codes_hide_no_secret_from_the_filter() -> None:
    assert SECRET not in plain(f"aws_secret_acc\x1b[0mess_key={SECRET}")


@pytest.mark.parametrize(
    "kind",
    [
        http.NoAnswer,
        http.NotFound,
        lookup.LookupRefused,
        lookup.SourceUnavailable,
        lookup.NotFinished,
        ImageUnusable,
        client.SSHError,
        EC2ServiceException,
        BusError,
        StoreError,
    ],
)
def test_errors_are_quoted_where_they_are_made(kind: type[Exception]) -> None:
    assert fit(str(kind(HOSTILE)))


def test_output_of_an_instance_keeps_its_lines_and_loses_its_secrets() -> None:
    output = EC2ServiceException("failed", output=f"one\n\x1b[2Jtwo\npassword={SECRET}\n").output
    assert output == "one\ntwo\npassword=[hidden]\n"


def test_fault_of_a_hub_is_quoted_as_one_short_line() -> None:
    assert fit(str(refusal("http://hub", "getBuild", 1000, HOSTILE)), 2 * QUOTED)


# Servers


Answering = Callable[[bytes], str]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """Serve one constant answer to whoever asks; the address."""
    threads = []
    servers = []

    def start(answer: bytes) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        threads.append(Thread(target=serve))
        threads[-1].start()
        return f"http://127.0.0.1:{server.getsockname()[1]}/file"

    yield start
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
    for thread in threads:
        thread.join()


def refused(status: int) -> bytes:
    """Return an answer with an untrusted reason phrase."""
    reason = "\x1b[31mforged\x07 " + f"token={SECRET} " + "x" * 2000
    return f"HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def redirect(target: str) -> bytes:
    """Return an answer that redirects its client."""
    head = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\n"
    return f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize("status", [404, 500])
def test_reason_phrase_of_a_server_is_quoted_as_one_short_line(
    answering: Answering, status: int
) -> None:
    url = answering(refused(status))
    asks: list[Callable[[], object]] = [
        lambda: http.get(url, 100, 20),
        lambda: XMLRPCClient(url, 20).call("getBuild", 1),
        lambda: KojiHub(Koji(hub=url)).find("build:1"),
        lambda: image_size(url, maximum=1),
        lambda: Download(url, size=1, checksum=None, idle=20, trusted=Trusted()).run(
            lambda piece: None
        ),
    ]
    for ask in asks:
        with pytest.raises(Exception, match=str(status)) as raised:
            ask()
        assert fit(str(raised.value), 2 * QUOTED)


def nobody() -> str:
    """Return a signed URL on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}/led-here?X-Amz-Signature={SECRET}"


def test_error_names_the_address_that_was_asked_for_and_not_where_that_led(
    answering: Answering,
) -> None:
    url = answering(redirect(nobody()))
    asks: list[Callable[[], object]] = [
        lambda: image_size(url, maximum=1),
        lambda: Download(url, size=1, checksum=None, idle=20, trusted=Trusted()).run(
            lambda piece: None
        ),
    ]
    for ask in asks:
        with pytest.raises(ImageUnusable, match="Connection refused") as raised:
            ask()
        text = str(raised.value)
        assert url in text
        assert "led-here" not in text
        assert SECRET not in text


def test_second_redirect_that_is_refused_names_the_address_that_was_asked_for(
    answering: Answering,
) -> None:
    second = answering(redirect("http://elsewhere.example/x")).replace(
        "/file", f"/led-here?sig={SECRET}"
    )
    url = answering(redirect(second))
    with pytest.raises(ImageUnusable, match=r"elsewhere\.example") as raised:
        image_size(url, maximum=1)
    assert url in str(raised.value)
    assert "led-here" not in str(raised.value)


# Outlets

LOGGING = """
import logging, sys, threading, warnings
from fedimg.process import logs

logs.to_standard_error()
log = logging.getLogger("fedimg.some")
hostile = sys.argv[1]
log.error("job failed: %s", hostile)
log.error("told:\\n    | one\\n    | two")
warnings.warn(hostile)
try:
    raise RuntimeError(hostile)
except RuntimeError:
    log.exception("broken")
thread = threading.Thread(target=lambda: int(hostile))
thread.start()
thread.join()
log.info("x" * 200_000)
raise RuntimeError(hostile)
"""


@pytest.mark.process
@pytest.mark.parametrize("journal", ["8:1", None])
def test_log_has_one_line_an_event_and_no_priority_of_others(journal: str | None) -> None:
    environment = {**os.environ, **({"JOURNAL_STREAM": journal} if journal else {})}
    if not journal:
        environment.pop("JOURNAL_STREAM", None)
    done = subprocess.run(
        [sys.executable, "-c", LOGGING, HOSTILE],
        env=environment,
        capture_output=True,
        timeout=60,
    )
    lines = done.stderr.splitlines()
    assert len(lines) == 7
    for raw in lines:
        line = raw.decode()
        assert line.isprintable()
        assert SECRET not in line
        assert not line.startswith("<")
        # The journal cuts at 48 KiB, and begins anew.
        assert len(raw) < 48 * 1024
    assert b"told: | one | two" in lines[1]
    assert b"RuntimeError" in lines[6]


def test_commands_print_no_secret_and_no_control_character(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = Output(as_json=True)
    output.value({"error": HOSTILE, "list": [HOSTILE]})
    output.error(HOSTILE)
    Output(as_json=False).note(HOSTILE)
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    assert "\x1b" not in printed.out + printed.err
    for line in printed.out.splitlines():
        assert "\\u001b" not in line
        json.loads(line)


def test_rows_and_messages_hold_no_secret(tmp_path: Path) -> None:
    store = Store(tmp_path)
    image = RawImage.at(
        "https://koji.example/Fedora-Cloud-1.x86_64.raw.xz", Architecture.X86_64, None
    )
    store.add_job(image, queue=lambda connection, run: None)
    store.set_region(image.job, "us-east-1", step="write", detail=HOSTILE, error=HOSTILE)
    store.announce("key", "image.upload", {"extra": {"data": HOSTILE}})
    store.close()
    for file in tmp_path.iterdir():
        assert SECRET.encode() not in file.read_bytes()
        assert b"\x1b[31m" not in file.read_bytes()


def test_values_that_are_not_text_stay_unchanged() -> None:
    value = {"a": [1, 2.5, None, True, "b"], "c": {}}
    assert plain_values(value) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\x1b[31m\nb", '"a b"'),
        ("https://ann:secret@host/", '"https://[hidden]@host/"'),
        (None, "null"),
        (5, "5"),
        ({"id": [1, "x"]}, '{"id": [1, "x"]}'),
        ({"at": b"bytes"}, '{"at": "b\'bytes\'"}'),
    ],
)
def test_data_is_quoted_as_text_or_json(value: object, text: str) -> None:
    assert quoted(value) == text
    assert len(quoted([value] * 200, 80)) == 80
