"""One HTTP request, as far as every service reads it the same way: body, signer, answer."""

import hashlib
import secrets
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from typing import Any

# WSGI's names of these two do not begin as those of all other headers do.
_PLAIN = {"CONTENT_LENGTH", "CONTENT_TYPE"}


@dataclass(frozen=True)
class Signer:
    """The signer of a request, its region and service, once lab.ec2.signatures has verified it."""

    access_key: str
    region: str
    service: str
    session_token: str | None = None


@dataclass(frozen=True)
class Request:
    environ: dict[str, Any]
    method: str
    path: str
    query: str
    body: bytes
    id: str = field(default_factory=lambda: str(uuid.UUID(bytes=secrets.token_bytes(16))))

    def header(self, name: str) -> str | None:
        key = name.upper().replace("-", "_")
        found = self.environ.get(key if key in _PLAIN else f"HTTP_{key}")
        return str(found) if found is not None else None

    @property
    def raw_path(self) -> str:
        """The path with the escapes that the client has given it."""
        target = str(self.environ.get("RAW_URI", self.path)).partition("?")[0]
        if target.startswith("/"):
            return target
        # A client that takes the lab for a proxy names the host, too.
        return "/" + target.partition("://")[2].partition("/")[2]

    @cached_property
    def sha256(self) -> bytes:
        """The digest of the body."""
        return hashlib.sha256(self.body).digest()


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    content_type: str = "text/xml;charset=UTF-8"
    headers: dict[str, str] = field(default_factory=dict)


def read(environ: dict[str, Any]) -> Request:
    """Return the request, with its body read; `wsgi.input` can be read again afterwards."""
    stream = environ["wsgi.input"]
    length = environ.get("CONTENT_LENGTH")
    if length:
        body = stream.read(int(length))
    else:
        body = stream.read() if environ.get("wsgi.input_terminated") else b""
        environ["CONTENT_LENGTH"] = str(len(body))
    environ["wsgi.input"] = BytesIO(body)
    return Request(
        environ,
        environ["REQUEST_METHOD"],
        environ.get("PATH_INFO", "/"),
        environ.get("QUERY_STRING", ""),
        body,
    )
