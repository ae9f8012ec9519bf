"""The values that travel through fedimg: a raw image, the AMI types made of it, an AMI."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote, unquote, urlsplit

#: Koji's own file names, and what RPM allows in a version or release, stay within these; anything
#: else never reaches a path, a tag or a shell.
FILE_NAME = re.compile(r"[A-Za-z0-9._+-][A-Za-z0-9._+~^-]{0,199}")
RAW_SUFFIX = ".raw.xz"
#: A checksum is `<algorithm>:<hex digits>`; these are the algorithms that Koji and composes use.
CHECKSUM_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64}
#: Of root volumes, by EC2's names.
VOLUME_TYPES = ("standard", "gp2", "gp3")
#: EC2's volumes end here, and so does every file that unpacks onto one; a database holds it.
LARGEST = 2**46
# What a job made is found again by a tag that holds the job's whole name; EC2's limit.
_JOB_LENGTH = 256
# How the source of an image begins that a person named by its address.
_BY_HAND = "url-"


def in_url(name: str) -> str:
    """Return a file's or folder's name as it is written in a URL."""
    return quote(name, safe="+")


class Architecture(StrEnum):
    """An architecture by EC2's name for it; Koji's `aarch64` is EC2's `arm64`."""

    X86_64 = "x86_64"
    ARM64 = "arm64"

    @classmethod
    def from_koji(cls, name: str) -> Architecture:
        """The architecture that Koji calls `name`. Raises ValueError for one EC2 cannot run."""
        return cls({"aarch64": "arm64"}.get(name, name))


class Virtualization(StrEnum):
    """How EC2 starts an AMI."""

    HVM = "hvm"
    PARAVIRTUAL = "paravirtual"


@dataclass(frozen=True)
class RawImage:
    """One raw disk image that Koji built, and the identity of the job that publishes it.

    `source` is what Koji made it in (`build-123`, `task-456`) or `url` for a hand-given one;
    `build` is the build's name-version-release, or the image's name where there is none; `size`
    is the compressed file's, in bytes. Raises ValueError when a field is not what Koji makes.
    """

    url: str
    architecture: Architecture
    build: str
    source: str
    size: int | None = None
    checksum: str | None = None

    def __post_init__(self) -> None:
        # Before anything quotes it: an @ ends a password, wherever urlsplit would see that end.
        if "@" in self.url or urlsplit(self.url).query or urlsplit(self.url).fragment:
            # The AMI's description and the bus show the address to everybody.
            raise ValueError(
                "the image's URL holds credentials (an @), a query or a fragment; give a plain "
                "address, since all of it becomes public"
            )
        parts = urlsplit(self.url)
        # A port that cannot be is a ValueError of its own.
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError(f"image URL {self.url!r} is not an http or https address")
        if not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            raise ValueError(f"image URL {self.url!r} holds characters that no URL may")
        fits = FILE_NAME.fullmatch(self.file_name) and self.file_name.endswith(RAW_SUFFIX)
        if not fits or not self.name:
            raise ValueError(
                f"image URL {self.url!r} does not end in a file name like NAME{RAW_SUFFIX}"
            )
        for what, value in (("build", self.build), ("source", self.source)):
            if not FILE_NAME.fullmatch(value):
                raise ValueError(f"image {what} {value!r} is not a name that Koji makes")
        if len(self.job) > _JOB_LENGTH:
            raise ValueError(f"image source {self.source!r} is too long a name")
        if self.size is not None and not 0 < self.size <= LARGEST:
            raise ValueError(f"image {self.file_name} has an impossible size of {self.size} bytes")
        if self.checksum is not None:
            algorithm, _, digits = self.checksum.partition(":")
            wanted = CHECKSUM_DIGITS.get(algorithm)
            if not wanted or not re.fullmatch(f"[0-9a-f]{{{wanted}}}", digits):
                raise ValueError(
                    f"checksum {self.checksum!r} is not ALGORITHM:HEX with one of "
                    + ", ".join(CHECKSUM_DIGITS)
                )

    @property
    def file_name(self) -> str:
        """The file's name, `NAME.raw.xz`."""
        return unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])

    @property
    def name(self) -> str:
        """The file's name without `.raw.xz`, as the bus contract names an image."""
        return self.file_name.removesuffix(RAW_SUFFIX)

    @property
    def job(self) -> str:
        """The identity of the job: what Koji made, and which file of it."""
        return f"{self.source}-{self.name}"

    @property
    def given_by_hand(self) -> bool:
        """Whether a person named its address, and not Koji or a compose."""
        return self.source.startswith(_BY_HAND)

    def other_than(self, size: int) -> str | None:
        """Why the file at the URL, of `size` bytes, is not this image; None when it may be."""
        if self.size in (None, size):
            return None
        if self.given_by_hand:
            return (
                f"{self.url} has {size} bytes, and had {self.size} when it was uploaded: the file "
                "was changed since; run 'fedimg upload' again for the file that is there now"
            )
        return (
            f"{self.url} has {size} bytes, and Koji says {self.size}: it is not the file that was "
            "built"
        )

    @classmethod
    def at(
        cls, url: str, architecture: Architecture, checksum: str | None, *, size: int | None = None
    ) -> RawImage:
        """An image that a person named by its URL alone; the URL is its identity."""
        # The one character of such names that no URL may hold as it is.
        url = url.replace("^", quote("^"))
        name = unquote(urlsplit(url).path.rsplit("/", 1)[-1]).removesuffix(RAW_SUFFIX)
        source = _BY_HAND + hashlib.sha256(url.encode()).hexdigest()[:10]
        return cls(url, architecture, name, source, size, checksum)


@dataclass(frozen=True, order=True)
class AMIType:
    """Virtualization × volume type, such as `hvm-gp2`."""

    virtualization: Virtualization
    volume_type: str

    def __str__(self) -> str:
        return f"{self.virtualization}-{self.volume_type}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> Any:
        """Have pydantic read and write a type as its text, for records and messages."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls.parse(value),
            serialization=core_schema.to_string_ser_schema(),
        )

    @classmethod
    def parse(cls, text: str) -> AMIType:
        """The type written as `hvm-gp2`. Raises ValueError when it is not one."""
        virtualization, _, volume_type = text.partition("-")
        if volume_type not in VOLUME_TYPES:
            raise ValueError(f"AMI type {text!r} does not end in {' or '.join(VOLUME_TYPES)}")
        return cls(Virtualization(virtualization), volume_type)


@dataclass(frozen=True)
class AMI:
    """One AMI of a job, in one region."""

    id: str
    name: str
    region: str
    type: AMIType
    snapshot: str
