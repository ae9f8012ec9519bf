"""Takes user data apart as cloud-init does; what the parts ask for is cloud_init's matter."""

import email
import email.policy
import gzip
import io
import zlib
from dataclasses import dataclass

# EC2 allows 16 KiB, packed; a bound for what a bomb unpacks to.
_MOST_BYTES = 16 * 1024 * 1024

CLOUD_CONFIG = "text/cloud-config"
SCRIPT = "text/x-shellscript"
BOOTHOOK = "text/cloud-boothook"
_HANDLED = (CLOUD_CONFIG, SCRIPT, BOOTHOOK)


@dataclass(frozen=True)
class Part:
    """One part of user data: `kind` is a MIME type, by its own heading or its first line."""

    kind: str
    content: bytes


def take_apart(data: bytes) -> list[Part]:
    """Return the parts of `data`: gzip'd or not, one part or MIME multi-part.

    What cloud-init has no handler for comes as `text/plain`.
    """
    data = _unpacked(data)
    if not data.strip():
        return []
    heading = data.lstrip()[:512].lower()
    if not heading.startswith((b"content-type:", b"mime-version:")):
        return [Part(_sniff(data), data)]
    message = email.message_from_bytes(data.lstrip(), policy=email.policy.default)
    parts = []
    for piece in message.walk():
        if piece.is_multipart():
            continue
        payload = piece.get_payload(decode=True)
        content = _unpacked(payload if isinstance(payload, bytes) else b"")
        kind = piece.get_content_type()
        parts.append(Part(kind if kind in _HANDLED else _sniff(content), content))
    return parts


def _unpacked(data: bytes) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return file.read(_MOST_BYTES)
    except (OSError, EOFError, zlib.error):
        return data


def _sniff(content: bytes) -> str:
    text = content.lstrip()
    if text.split(maxsplit=1)[:1] == [b"#cloud-config"]:
        return CLOUD_CONFIG
    if text.startswith(b"#cloud-boothook"):
        return BOOTHOOK
    return SCRIPT if text.startswith(b"#!") else "text/plain"
