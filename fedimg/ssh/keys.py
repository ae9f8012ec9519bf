"""Parse the keys of one machine: its own, and the one that it lets in."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import paramiko


@dataclass(frozen=True)
class Keys:
    """The server's host key, and the key for the login."""

    host: paramiko.PKey
    client: paramiko.PKey


def parse(host: str, client: str) -> Keys:
    """Parse a host key's public line, and a client's private key in OpenSSH's own format."""
    return Keys(
        paramiko.Ed25519Key(data=base64.b64decode(host.split()[1])),
        paramiko.Ed25519Key.from_private_key(io.StringIO(client)),
    )
