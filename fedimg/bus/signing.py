"""Sign messages as fedmsg does, but read the key once, not for every message.

Reading a key of 2048 bits checks its primes, which blocks all threads of Python for 44 ms; a
signature takes 1 ms.
"""

from __future__ import annotations

import base64
import os
import socket
from functools import lru_cache
from pathlib import Path
from typing import Any

import fedmsg.encoding
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def sign(message: dict[str, Any], config: dict[str, Any]) -> None:
    """Sign a message in place, with the key that fedmsg's configuration names for this host.

    The fields and the choice of the key are those of fedmsg.crypto.x509_ng and of
    fedmsg.core.FedMsgContext.publish. Raises KeyError when no key is configured for this host, and
    what reading the key raises.
    """
    prefix = config.get("cert_prefix", "shell")
    name = config["certnames"][f"{prefix}.{socket.gethostname().split('.', 1)[0]}"]
    folder = Path(config.get("ssldir", "/etc/pki/fedmsg"))
    key = _key(folder / f"{name}.key", _version(folder / f"{name}.key"))
    certificate = _certificate(folder / f"{name}.crt", _version(folder / f"{name}.crt"))
    message["crypto"] = "x509"
    text = fedmsg.encoding.dumps(message).encode()
    # Every consumer expects SHA-1, which fedmsg uses.
    signature = key.sign(text, padding.PKCS1v15(), hashes.SHA1())
    message["signature"] = base64.encodebytes(signature).decode()
    message["certificate"] = base64.encodebytes(certificate).decode()


def _version(file: Path) -> tuple[int, int, int]:
    """Return a value that changes when the file is replaced, as when its key is renewed."""
    status = os.stat(file)
    return status.st_ino, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=1)
def _key(file: Path, _version: object) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError(f"{file} does not hold an RSA key, the only kind with which fedmsg signs")
    return key


@lru_cache(maxsize=1)
def _certificate(file: Path, _version: object) -> bytes:
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    return certificate.public_bytes(serialization.Encoding.PEM)
