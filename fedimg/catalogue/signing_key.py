"""Make, read and replace the private key that signs the catalogue's statements.

It is an Ed25519 key, in an unencrypted PKCS #8 file that only its owner can read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from fedimg.catalogue.errors import CatalogueError
from fedimg.process import private_file
from fedimg.process.private_file import NotPrivate

_MODE = 0o600
#: The longest file that is read, in bytes; a key has about 120.
_MOST_BYTES = 4096


def read(path: Path) -> CryptoSigner:
    """Return the signer of a key's file.

    Raises CatalogueError when the file cannot be read, is another user's, can be read by others, or
    holds no Ed25519 key.
    """
    try:
        content = private_file.read(path, "the catalogue's signing key", most=_MOST_BYTES)
    except NotPrivate as error:
        raise CatalogueError(
            f"{error}; 'fedimg keygen' makes one, and 'fedimg keygen --rotate' replaces one that "
            "others could read"
        ) from error
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CatalogueError(
            f"{path} holds no private key that can be read: 'fedimg keygen' makes one, an Ed25519 "
            "key in PEM without a password"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CatalogueError(f"{path} holds no Ed25519 key: 'fedimg keygen' makes one")
    return CryptoSigner(key)


def generate(path: Path) -> str:
    """Write a new key into a new file; return the key's id. Raises CatalogueError if it exists."""
    with _told(path):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        return _write(file)


def rotate(path: Path) -> tuple[str, str]:
    """Replace the key of a file by a new one; return the ids of the old and the new key.

    The old private key is gone; its public half stays published. Raises CatalogueError.
    """
    old = read(path).public_key.keyid
    new = path.with_name(f".{path.name}.new")
    with _told(path):
        new.unlink(missing_ok=True)
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        keyid = _write(file)
        new.replace(path)
    return old, keyid


def _write(file: int) -> str:
    key = Ed25519PrivateKey.generate()
    with os.fdopen(file, "wb") as opened:
        opened.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        opened.flush()
        os.fsync(file)
    return str(CryptoSigner(key).public_key.keyid)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise CatalogueError(
            f"{path} exists and stays as it is: name another file, or replace a key by "
            "'fedimg keygen --rotate'"
        ) from error
    except OSError as error:
        raise CatalogueError(
            f"cannot write the catalogue's signing key {path}: {error.strerror or error}"
        ) from error
