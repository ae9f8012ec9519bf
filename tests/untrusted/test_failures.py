"""Every exception that a library can raise here is told without Python's words."""

from __future__ import annotations

import http.client
import importlib
import inspect
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedimg.untrusted.failures import reason

#: What no operator should have to read.
PYTHON = re.compile(
    r"object at 0x|<class|<urllib3|<socket|<AddressFamily|\b\w+(?:Error|Exception|Pool|Read)\("
    r"|\[Errno|_ssl\.c|\bNone\b|\bb'|\('|max retries|\{'|Traceback|\[SQL|sqlalche\.me|\['",
    re.IGNORECASE,
)

MODULES = [
    "botocore.exceptions",
    "botocore.parsers",
    "requests.exceptions",
    "urllib3.exceptions",
    "paramiko.ssh_exception",
    "pika.exceptions",
    "sqlalchemy.exc",
    "psycopg.errors",
    "http.client",
    "ssl",
    "socket",
    "builtins",
]


class Thing:
    """Stands for a library's object, whose representation is Python's."""


#: Values for the parameters of constructors, by name.
VALUES: dict[str, Any] = {
    "error": ConnectionRefusedError(111, "Connection refused"),
    "reason": ConnectionRefusedError(111, "Connection refused"),
    "last_exception": ConnectionRefusedError(111, "Connection refused"),
    "orig": ConnectionRefusedError(111, "Connection refused"),
    "original_error": ConnectionRefusedError(111, "Connection refused"),
    "pool": Thing(),
    "conn": Thing(),
    "url": "/signed?X-Amz-Signature=abc",
    "reply_code": 320,
    "reply_text": "CONNECTION_FORCED - broker forced connection closure",
    "code": 1,
    "text": "Administratively prohibited",
    "errors": {("192.0.2.7", 22): ConnectionRefusedError(111, "Connection refused")},
    "allowed_types": ["publickey", "keyboard-interactive"],
    "types": ["publickey"],
    "statement": "SELECT 1",
    "params": {"a": 1},
    "error_response": {"Error": {"Code": "ExpiredToken", "Message": "expired"}},
    "operation_name": "DescribeRegions",
    "partial": b"abc",
    "expected": 9,
    "defects": [],
    "unparsed_data": b"abc",
}


def made(kind: type[BaseException]) -> Iterator[BaseException]:
    """Yield exceptions of a class as its library might raise them, and as it would be at worst."""
    refused = ConnectionRefusedError(111, "Connection refused")
    attempts: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}),
        (("the server said no",), {}),
        ((f"{Thing()!r}: Failed: [Errno 111] Connection refused",), {}),
        ((refused,), {}),
        (("Connection aborted.", refused), {}),
        ((104, "Connection reset by peer"), {}),
        ((b"bytes",), {}),
    ]
    try:
        parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    except (TypeError, ValueError):
        parameters = []
    named = [
        each
        for each in parameters
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.POSITIONAL_ONLY)
    ]
    attempts.append((tuple(VALUES.get(each.name, "some text") for each in named), {}))
    template = getattr(kind, "fmt", None)
    if isinstance(template, str):
        keys = re.findall(r"\{(\w+)", template)
        attempts.append(((), {key: VALUES.get(key, "some text") for key in keys}))
        attempts.append(((), {key: Thing() for key in keys}))
    for arguments, keywords in attempts:
        try:
            yield kind(*arguments, **keywords)
        except Exception:
            # That library cannot raise it in this way.
            continue


def classes(module: str) -> list[type[BaseException]]:
    found = vars(importlib.import_module(module)).values()
    return sorted(
        {each for each in found if inspect.isclass(each) and issubclass(each, Exception)},
        key=lambda each: each.__qualname__,
    )


@pytest.mark.parametrize("module", MODULES)
def test_no_exception_of_a_library_is_told_in_pythons_words(module: str) -> None:
    bad: dict[str, str] = {}
    count = 0
    for kind in classes(module):
        for error in made(kind):
            count += 1
            said = reason(error)
            if not said or "\n" in said or PYTHON.search(said):
                bad[f"{kind.__name__}{error.args!r:.80}"] = said
    assert bad == {}
    assert count >= len(classes(module))


def raised(action: Any) -> BaseException:
    """Return what a library really raises."""
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_refused_connections_of_each_library_are_told_alike(tmp_path: Path) -> None:
    import boto3
    import paramiko
    import pika
    import psycopg
    import requests
    import sqlalchemy as sa
    import urllib3
    from botocore.config import Config

    port = closed_port()
    ec2 = boto3.client(
        "ec2",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(retries={"total_max_attempts": 1}),
    )
    client = paramiko.SSHClient()
    parameters = pika.ConnectionParameters("127.0.0.1", port, connection_attempts=1)
    engine = sa.create_engine(f"postgresql+psycopg://127.0.0.1:{port}/x")
    errors = [
        raised(ec2.describe_regions),
        raised(lambda: requests.get(f"http://127.0.0.1:{port}/a?X-Amz-Signature=b", timeout=5)),
        raised(lambda: urllib3.request("GET", f"http://127.0.0.1:{port}/", retries=0)),
        raised(lambda: client.connect("127.0.0.1", port)),
        raised(lambda: pika.BlockingConnection(parameters)),
        raised(lambda: psycopg.connect(f"host=127.0.0.1 port={port}")),
        raised(engine.connect),
    ]
    for error in errors:
        said = reason(error)
        assert not PYTHON.search(said), said
        assert re.search("refused|listens|connect", said.lower()), said
        assert "X-Amz" not in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "No such file or directory: /x"),
        (http.client.IncompleteRead(b"abc", 9), "3 bytes read, 9 more expected"),
        (
            http.client.RemoteDisconnected("Remote end closed connection without response"),
            "Remote end closed connection without response",
        ),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (
            ssl.SSLCertVerificationError(
                1,
                "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed "
                "certificate (_ssl.c:1006)",
            ),
            "certificate verify failed: self-signed certificate",
        ),
        (ConnectionResetError(), "connection reset error"),
        (KeyError("endpoints"), "key error"),
    ],
)
def test_plain_words_are_kept(error: Exception, said: str) -> None:
    assert reason(error) == said


def test_refusal_of_aws_is_told_with_call_code_and_message() -> None:
    from botocore.exceptions import ClientError

    error = ClientError(
        {
            "Error": {"Code": "ExpiredToken", "Message": "The token is expired"},
            "ResponseMetadata": {"MaxAttemptsReached": True, "RetryAttempts": 0},  # type: ignore[typeddict-item]
        },
        "DescribeRegions",
    )
    assert "reached max retries" in str(error)
    assert reason(error) == "DescribeRegions was refused with ExpiredToken: The token is expired"
