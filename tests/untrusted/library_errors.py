"""The exceptions that libraries can raise here, made as they would raise them."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

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
