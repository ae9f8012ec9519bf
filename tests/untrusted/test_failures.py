"""Every exception that a library can raise here is told without Python's words."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from fedimg.untrusted.failures import reason
from tests.untrusted.library_errors import MODULES, PYTHON, classes, made


@pytest.mark.parametrize("module", MODULES)
def test_exceptions_of_libraries_are_reported_without_python_reprs(module: str) -> None:
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


def test_refused_connections_of_each_library_have_the_same_text(tmp_path: Path) -> None:
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
def test_plain_messages_are_kept(error: Exception, said: str) -> None:
    assert reason(error) == said


def test_refusal_of_aws_is_reported_with_call_code_and_message() -> None:
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
