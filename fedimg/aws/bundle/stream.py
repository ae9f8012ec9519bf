"""Turn the bytes of an image into the parts of a bundle, in one pass and with bounded memory."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

#: The size of a part, in bytes; the last one may be smaller.
PART = 10 * 1024 * 1024
#: The largest root disk of an instance-store AMI, in bytes: 10 GiB.
LARGEST = 10 * 1024**3
# zlib's parameter for gzip's header and trailer; the header then has no time and no name.
_GZIP = 16 + zlib.MAX_WBITS
# More than zlib's own 1 saves little of a disk that is mostly zeros, and takes thrice the time.
_LEVEL = 3
# Compressed and encrypted at a time, so that a caller's large piece is not held twice.
_PIECE = 1024 * 1024


@dataclass(frozen=True)
class ContentKey:
    """The AES-128 key and initialisation vector of one bundle, 16 bytes each."""

    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)

    @classmethod
    def of(cls, passphrase: str) -> ContentKey:
        """Return the key of a passphrase, as `openssl enc -nosalt -md sha256` makes it.

        OpenSSL takes a key itself on a command line alone, where other programs see it, and a
        passphrase from a pipe.
        """
        digest = hashlib.sha256(passphrase.encode()).digest()
        return cls(digest[:16], digest[16:])


@dataclass(frozen=True)
class Part:
    """One part: its size in bytes, and its SHA-1 in hex digits."""

    size: int
    sha1: str


@dataclass(frozen=True)
class Bundled:
    """The facts of a whole bundle that its manifest states.

    `digest` is the SHA-1 of the tar archive in hex digits, `size` that of the image in bytes.
    """

    name: str
    digest: str
    size: int
    parts: tuple[Part, ...]

    @property
    def bundled_size(self) -> int:
        """Return the size of all parts, in bytes."""
        return sum(part.size for part in self.parts)


class BundleStream:
    """One bundle in the making; the same image, name and key give the same parts.

    The tar archive begins with the size of the image, which therefore has to be known before its
    bytes: an .xz file tells it in its index.

    Args:
        name: the name of the image's file in the archive.
        size: of the image, in bytes.
        content_key: encrypts the parts.
    """

    def __init__(self, name: str, size: int, content_key: ContentKey) -> None:
        self._name = name
        self._size = size
        self._added = 0
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._compressor = zlib.compressobj(_LEVEL, wbits=_GZIP)
        self._padder = PKCS7(AES128.block_size).padder()
        self._encryptor = Cipher(AES128(content_key.key), CBC(content_key.iv)).encryptor()
        self._waiting = bytearray()
        self._parts: list[Part] = []
        self._tar(header(name, size))

    def add(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """Yield the parts that the next bytes of the image complete. Raises ValueError for more
        bytes than the image has.
        """
        self._added += len(data)
        if self._added > self._size:
            raise ValueError(f"the image has more than the expected {self._size} bytes")
        view = memoryview(data)
        for at in range(0, len(view), _PIECE):
            self._tar(view[at : at + _PIECE])
            yield from self._complete()

    def finish(self) -> Iterator[bytes]:
        """Yield the last parts. Raises ValueError when bytes of the image are missing."""
        if self._added != self._size:
            raise ValueError(f"the image has {self._added} bytes, expected {self._size}")
        self._tar(bytes(tail(self._size)))
        self._encrypt(self._compressor.flush())
        self._waiting += self._encryptor.update(self._padder.finalize())
        self._waiting += self._encryptor.finalize()
        yield from self._complete()
        if self._waiting:
            yield self._part(len(self._waiting))

    def bundled(self) -> Bundled:
        """Return the facts of the bundle, once its last part was yielded."""
        return Bundled(self._name, self._sha1.hexdigest(), self._size, tuple(self._parts))

    def _tar(self, data: bytes | memoryview) -> None:
        self._sha1.update(data)
        self._encrypt(self._compressor.compress(data))

    def _encrypt(self, data: bytes) -> None:
        self._waiting += self._encryptor.update(self._padder.update(data))

    def _complete(self) -> Iterator[bytes]:
        while len(self._waiting) >= PART:
            yield self._part(PART)

    def _part(self, size: int) -> bytes:
        part = bytes(memoryview(self._waiting)[:size])
        del self._waiting[:size]
        self._parts.append(Part(len(part), hashlib.sha1(part, usedforsecurity=False).hexdigest()))
        return part


def header(name: str, size: int) -> bytes:
    """Return the header of the archive's one file, without times or owners: a repeated pass has to
    make the same parts.
    """
    info = tarfile.TarInfo(name)
    info.size = size
    # GNU's form has sizes from 8 GiB on in the header itself, without a record before it.
    return info.tobuf(tarfile.GNU_FORMAT)


def tail(size: int) -> int:
    """Return the number of zeros after the image: up to a block, two blocks, up to a record."""
    blocks = -(-size // tarfile.BLOCKSIZE) + 1 + 2
    records = -(-blocks * tarfile.BLOCKSIZE // tarfile.RECORDSIZE)
    return records * tarfile.RECORDSIZE - tarfile.BLOCKSIZE - size


def most_parts(size: int) -> int:
    """Return how many parts the bundle of an image of `size` bytes has at most.

    gzip adds 5 bytes to each 16 KiB or more that it cannot compress, and a header and a trailer.
    """
    archive = tarfile.BLOCKSIZE + size + tail(size)
    return (archive + archive // 1024 + 1024) // PART + 1
