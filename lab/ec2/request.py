"""One HTTP request, as far as every service reads it the same way: body, signer, answer."""

import re
import secrets
import uuid
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/(\d{8})/([^/,\s]+)/([^/,\s]+)/aws4_request")


@dataclass(frozen=True)
class Signer:
    """Who signed, for which region and service; nothing checks the signature itself."""

    access_key: str
    region: str
    service: str


@dataclass(frozen=True)
class Request:
    environ: dict[str, Any]
    method: str
    path: str
    query: str
    body: bytes
    id: str = field(default_factory=lambda: str(uuid.UUID(bytes=secrets.token_bytes(16))))

    def header(self, name: str) -> str | None:
        found = self.environ.get(f"HTTP_{name.upper().replace('-', '_')}")
        return str(found) if found is not None else None

    def signer(self) -> Signer | None:
        found = CREDENTIAL.search(self.environ.get("HTTP_AUTHORIZATION", ""))
        if not found:
            presigned = parse_qs(self.query).get("X-Amz-Credential", [""])[0]
            found = CREDENTIAL.search(f"Credential={presigned}")
        if not found:
            return None
        return Signer(found[1], found[3], found[4])


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    content_type: str = "text/xml;charset=UTF-8"
    headers: dict[str, str] = field(default_factory=dict)


def read(environ: dict[str, Any]) -> Request:
    """The request, with its body read; `wsgi.input` can be read again afterwards."""
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
