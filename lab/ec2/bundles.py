"""Bundles in S3, from which instance-store images are: the manifest and the bytes.

A manifest is read when an image is registered, and the parts whenever an instance starts.
"""

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from xml.etree import ElementTree

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from moto.core.exceptions import ServiceException
from moto.s3.models import s3_backends

from lab.ec2 import disks, s3_access
from lab.ec2.bundle_key import Pair
from lab.ec2.errors import EC2Error

VERSION = "2007-10-10"
#: The largest root disk, in bytes, and the largest manifest.
LARGEST, LARGEST_MANIFEST = 10 << 30, 1 << 20
_CHUNK = 1 << 20
# The elements of `image`, in the order in which EC2 reads them.
_ORDER = (
    "name", "user", "type", "digest", "size", "bundled_size", "ec2_encrypted_key",
    "user_encrypted_key", "ec2_encrypted_iv", "user_encrypted_iv", "parts",
)  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """The statements of a manifest about an image."""

    architecture: str
    size: int
    image: ElementTree.Element


def manifest(account: str, region: str, location: str) -> Manifest:
    """Return the manifest of `BUCKET/KEY`, as RegisterImage takes it. Raises EC2Error."""
    bucket, _, key = location.strip("/").partition("/")
    if not key.endswith(".manifest.xml"):
        raise EC2Error(
            "InvalidAMIName.Malformed" if not key else "InvalidManifest",
            f"The manifest location {location} is not of the form BUCKET/KEY.manifest.xml.",
        )
    try:
        text = _read(account, region, bucket, key)
    except _NotRead as refused:
        raise EC2Error(
            "InvalidManifest",
            f"HTTP {refused} response for URL http://s3.amazonaws.com:80/{bucket}/{key}: check "
            "your S3 ACLs and that the manifest path is correct.",
        ) from None
    if len(text) > LARGEST_MANIFEST:
        raise _invalid("The manifest is too large.")
    try:
        return _parse(text, account)
    except ElementTree.ParseError as error:
        raise _invalid(f"The manifest is no XML: {error}") from None


def unbundle(pair: Pair, account: str, region: str, location: str, disk: Path) -> None:
    """Write the image that a manifest describes into the file `disk`; holes stay holes.

    Raises ValueError when a part is not there, or is not as the manifest says.
    """
    bucket, _, key = location.strip("/").partition("/")
    folder = key.rpartition("/")[0]
    try:
        image = _parse(_read(account, region, bucket, key), account).image
        names = [part.findtext("filename", "") for part in image.iterfind("parts/part")]
        digests = [part.findtext("digest", "") for part in image.iterfind("parts/part")]
        paths = [f"{folder}/{name}".lstrip("/") for name in names]
        secret = pair.read(image.findtext("ec2_encrypted_key", ""))
        iv = pair.read(image.findtext("ec2_encrypted_iv", ""))
        packed = _checked(account, region, bucket, paths, digests)
        _unpack(_decrypted(packed, secret, iv), image, disk)
    except (_NotRead, EC2Error, tarfile.TarError, zlib.error) as error:
        raise ValueError(f"the bundle {location} cannot be used: {error}") from error


class _NotRead(Exception):
    """S3 does not give EC2 the object; the text is an HTTP status."""


def _read(account: str, region: str, bucket: str, key: str) -> bytes:
    backend = s3_backends[account]["aws"]
    try:
        there = backend.get_bucket(bucket)
        found = backend.get_object(bucket, key)
    except ServiceException:
        raise _NotRead("404 (Not Found)") from None
    if there.region_name != region:
        raise _NotRead("301 (Moved Permanently)")
    if found is None:
        raise _NotRead("404 (Not Found)")
    if not s3_access.ec2_may_read(found):
        raise _NotRead("403 (Forbidden)")
    return bytes(found.value)


def _invalid(message: str) -> EC2Error:
    return EC2Error("InvalidManifest", message)


def _parse(text: bytes, account: str) -> Manifest:
    root = ElementTree.fromstring(text)
    image = root.find("image")
    if root.tag != "manifest" or root.findtext("version") != VERSION or image is None:
        raise _invalid(f"The manifest is not one of version {VERSION}.")
    if not _hex(root.findtext("signature")):
        raise _invalid("The manifest has no signature.")
    for name in (
        "ec2_encrypted_key",
        "user_encrypted_key",
        "ec2_encrypted_iv",
        "user_encrypted_iv",
    ):
        if not _hex(image.findtext(name)):
            raise _invalid(f"The manifest has no {name}.")
    if tuple(each.tag for each in image) != _ORDER:
        raise _invalid("The elements of the manifest's image are not those that are expected.")
    if image.findtext("type") != "machine":
        raise _invalid("The manifest's image is no machine image.")
    if image.findtext("user") != account:
        raise _invalid(f"The manifest's user is not the account {account}.")
    sizes = [image.findtext("size", ""), image.findtext("bundled_size", "")]
    if not all(size.isascii() and size.isdigit() for size in sizes):
        raise _invalid("The manifest's size is no number.")
    if int(sizes[0]) > LARGEST:
        raise _invalid("The size of the root disk is above the limit of 10 GiB.")
    parts = image.findall("parts/part")
    if not parts or image.findall("parts")[0].get("count") != str(len(parts)):
        raise _invalid("The manifest does not list as many parts as it counts.")
    if [part.get("index") for part in parts] != [str(number) for number in range(len(parts))]:
        raise _invalid("The manifest's parts are not numbered from 0 on.")
    architecture = root.findtext("machine_configuration/architecture", "")
    return Manifest(architecture, int(sizes[0]), image)


def _hex(text: str | None) -> bool:
    try:
        return bool(bytes.fromhex(text or ""))
    except ValueError:
        return False


def _checked(
    account: str, region: str, bucket: str, paths: list[str], digests: list[str]
) -> Iterator[bytes]:
    for path, digest in zip(paths, digests, strict=True):
        part = _read(account, region, bucket, path)
        if hashlib.sha1(part, usedforsecurity=False).hexdigest() != digest:
            raise ValueError(f"part {path} has another SHA-1 than the manifest says")
        yield part


def _decrypted(parts: Iterator[bytes], key: bytes, iv: bytes) -> Iterator[bytes]:
    decryptor, unpadder = Cipher(AES128(key), CBC(iv)).decryptor(), PKCS7(128).unpadder()
    for part in parts:
        yield unpadder.update(decryptor.update(part))
    yield unpadder.update(decryptor.finalize()) + unpadder.finalize()


class _Archive(BufferedIOBase):
    """The tar archive of compressed pieces, as a file to read from, which hashes what is read."""

    def __init__(self, packed: Iterator[bytes]) -> None:
        self._packed = packed
        self._unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._waiting = bytearray()
        self.sha1 = hashlib.sha1(usedforsecurity=False)

    def read(self, size: int | None = -1, /) -> bytes:
        while size is None or size < 0 or len(self._waiting) < size:
            rest = self._unpacker.unconsumed_tail or next(self._packed, b"")
            if not rest:
                break
            self._waiting += self._unpacker.decompress(rest, _CHUNK)
        piece = bytes(self._waiting if size is None or size < 0 else self._waiting[:size])
        del self._waiting[: len(piece)]
        self.sha1.update(piece)
        return piece


def _unpack(packed: Iterator[bytes], image: ElementTree.Element, disk: Path) -> None:
    archive = _Archive(packed)
    with tarfile.open(fileobj=archive, mode="r|") as opened:
        member = opened.next()
        content = opened.extractfile(member) if member else None
        if member is None or content is None or member.size != int(image.findtext("size", "")):
            raise ValueError("the archive does not hold one file of the manifest's size")
        disks.create(disk, member.size)
        with disk.open("r+b") as file:
            while piece := content.read(_CHUNK):
                if piece.count(0) == len(piece):
                    file.seek(len(piece), 1)
                else:
                    file.write(piece)
    while archive.read(_CHUNK):
        pass
    if archive.sha1.hexdigest() != image.findtext("digest"):
        raise ValueError("the archive has another SHA-1 than the manifest says")
