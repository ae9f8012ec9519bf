"""Define the values of all packages: a raw image, an AMI type, an AMI."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import GetCoreSchemaHandler, PlainSerializer, PlainValidator

from fedimg.formats import SUFFIXES, Format, format_of, without_suffix
from fedimg.untrusted.quoting import quoted

#: Valid names of files, builds and sources: Koji's file names, and RPM's versions and releases. Any
#: other name is rejected before it reaches a path, a tag or a shell.
FILE_NAME = re.compile(r"[A-Za-z0-9._+-][A-Za-z0-9._+~^-]{0,199}")
#: A checksum is `<algorithm>:<hex digits>`; these are the algorithms that Koji and composes use.
CHECKSUM_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64}
#: Types of root volumes, by EC2's names.
VOLUME_TYPES = ("standard", "gp2", "gp3")
#: In place of a volume type, if the root disk comes from a bundle and is no EBS volume; and the end
#: of such an AMI type's text.
INSTANCE_STORE, INSTANCE = "instance-store", "instance"
#: The end of an AMI type's text, if its snapshot is encrypted with a key of the site's.
ENCRYPTED = "encrypted"
#: Largest size of a file, in bytes: EC2's largest volume, 64 TiB.
LARGEST = 2**46
#: Valid names of a compose's subvariants, such as Cloud_Base.
SUBVARIANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,99}")
#: Valid numbers of releases are below this one.
RELEASES = 10_000
# Most characters of a job's name: resources are tagged with it, and EC2 limits a tag's value.
_JOB_LENGTH = 256
# Prefix of the source of an image that a person uploaded by its URL.
_URL_SOURCE = "url-"


def in_url(name: str) -> str:
    """Return a file's or folder's name encoded for a URL."""
    return quote(name, safe="+")


class Architecture(StrEnum):
    """An architecture by EC2's name for it; Koji's `aarch64` is EC2's `arm64`."""

    X86_64 = "x86_64"
    ARM64 = "arm64"

    @classmethod
    def from_koji(cls, name: str) -> Architecture:
        """Return the architecture of Koji's `name`. Raises ValueError for one EC2 cannot run."""
        return cls({"aarch64": "arm64"}.get(name, name))

    @property
    def koji(self) -> str:
        """Return Koji's name for the architecture."""
        return "aarch64" if self is Architecture.ARM64 else self.value


class Virtualization(StrEnum):
    """The virtualization type of an AMI."""

    HVM = "hvm"
    PARAVIRTUAL = "paravirtual"


#: The parts of AMI types' texts, each of which stands for all types that have it.
TYPE_PARTS = (*map(str, Virtualization), *VOLUME_TYPES, ENCRYPTED)


@dataclass(frozen=True)
class RawImage:
    """One raw disk image that Koji built, and the identity of the job that publishes it.

    `source` is `build-<id>`, `task-<id>` or `compose-<id>`, or `url-<hash>` for an image that a
    person uploaded; `build` is the build's name-version-release, the compose's id, or the image's
    name; `size` is that of the compressed file, in bytes. `release` and `subvariant` are what a
    compose's metadata says, None where it does not, as for Rawhide's number, or where there is no
    compose. Raises ValueError for an invalid field.
    """

    url: str
    architecture: Architecture
    build: str
    source: str
    size: int | None = None
    checksum: str | None = None
    # Not compared: images that a version without them recorded are the same images.
    release: int | None = field(default=None, compare=False)
    subvariant: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        # Checked first, before another error quotes the URL: text before an @ may be a password.
        if "@" in self.url or urlsplit(self.url).query or urlsplit(self.url).fragment:
            # The AMI's description and the bus publish the URL.
            raise ValueError(
                "the image's URL contains credentials (an @), a query or a fragment, and would "
                "become public: give a URL without them"
            )
        parts = urlsplit(self.url)
        # parts.port raises ValueError for an invalid port.
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError(f"image URL {quoted(self.url)} is not an http or https URL")
        if not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            raise ValueError(
                f"image URL {quoted(self.url)} contains characters that a URL must not contain"
            )
        fits = FILE_NAME.fullmatch(self.file_name) and format_of(self.file_name)
        if not fits or not self.name:
            raise ValueError(
                f"image URL {quoted(self.url)} does not end in a file name: NAME and {SUFFIXES}"
            )
        for what, value in (("build", self.build), ("source", self.source)):
            if not FILE_NAME.fullmatch(value):
                raise ValueError(f"image {what} {quoted(value)} is not a name that Koji makes")
        if len(self.job) > _JOB_LENGTH:
            raise ValueError(
                f"the job's name {quoted(self.job)} has more than {_JOB_LENGTH} characters, "
                "the most of an EC2 tag"
            )
        if self.size is not None and not 0 < self.size <= LARGEST:
            raise ValueError(f"image {self.file_name} has an invalid size of {self.size} bytes")
        if self.release is not None and not 0 < self.release < RELEASES:
            raise ValueError(f"image {self.file_name} has an invalid release, {self.release}")
        if self.subvariant is not None and not SUBVARIANT.fullmatch(self.subvariant):
            raise ValueError(
                f"image {self.file_name} has an invalid subvariant, {quoted(self.subvariant)}"
            )
        if self.checksum is not None:
            algorithm, _, digits = self.checksum.partition(":")
            length = CHECKSUM_DIGITS.get(algorithm)
            if not length or not re.fullmatch(f"[0-9a-f]{{{length}}}", digits):
                raise ValueError(
                    f"checksum {quoted(self.checksum)} is not of the form ALGORITHM:HEX, with "
                    "ALGORITHM one of " + ", ".join(CHECKSUM_DIGITS)
                )

    @property
    def file_name(self) -> str:
        """Return the file's name, such as `NAME.raw.xz`."""
        return unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])

    @property
    def name(self) -> str:
        """Return the file's name without its format, which is the image's name in bus messages."""
        return without_suffix(self.file_name)

    @property
    def format(self) -> Format:
        """Return the format of the file."""
        found = format_of(self.file_name)
        assert found
        return found

    @property
    def job(self) -> str:
        """Return the name of the job: the source and the image's name."""
        return f"{self.source}-{self.name}"

    @property
    def given_by_hand(self) -> bool:
        """Return whether a person uploaded the image by its URL, not Koji or a compose."""
        return self.source.startswith(_URL_SOURCE)

    def other_than(self, size: int) -> str | None:
        """Return why the file at the URL, of `size` bytes, is not this image; None if it may be."""
        if self.size in (None, size):
            return None
        if self.given_by_hand:
            return (
                f"{self.url} has {size} bytes, but had {self.size} when it was uploaded: the file "
                "has changed since; run 'fedimg upload' again to publish the new file"
            )
        return (
            f"{self.url} has {size} bytes, but Koji says {self.size}: it is not the file that was "
            "built"
        )

    @classmethod
    def at(cls, url: str, architecture: Architecture, checksum: str | None) -> RawImage:
        """Return the image at a URL that a person gave; the source is a hash of the URL."""
        # The only character of valid file names that a URL must not contain.
        url = url.replace("^", quote("^"))
        name = without_suffix(unquote(urlsplit(url).path.rsplit("/", 1)[-1]))
        source = _URL_SOURCE + hashlib.sha256(url.encode()).hexdigest()[:10]
        return cls(url, architecture, name, source, None, checksum)


@dataclass(frozen=True, order=True)
class AMIType:
    """A virtualization type and a volume type, such as `hvm-gp2` or `hvm-gp2-encrypted`.

    Of `hvm-instance` the volume type is `instance-store`.

    AMIs of an encrypted type are made from an encrypted snapshot, and are never public.
    """

    virtualization: Virtualization
    volume_type: str
    encrypted: bool = False

    def __str__(self) -> str:
        return f"{self.virtualization}-{self.storage}"

    @property
    def storage(self) -> str:
        """Return the type's text behind the virtualization, such as `gp2` or `gp2-encrypted`."""
        if self.instance_store:
            return INSTANCE
        return f"{self.volume_type}-{ENCRYPTED}" if self.encrypted else self.volume_type

    @property
    def instance_store(self) -> bool:
        """Return whether the root disk comes from a bundle in S3, and is no EBS volume."""
        return self.volume_type == INSTANCE_STORE

    @property
    def boot_group(self) -> str:
        """Return the name of the types for which one boot check speaks.

        These are all of a virtualization that are made from the same snapshot; a bundle has
        been packed, and is fetched by other instance types, so that it has a check of its own.
        """
        return str(self) if self.instance_store else str(self.virtualization)

    @property
    def names(self) -> set[str]:
        """Return the type's text, and the parts of it that stand for all types that have them."""
        parts = {str(self), str(self.virtualization), self.volume_type}
        return parts | ({ENCRYPTED} if self.encrypted else set())

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, handler: GetCoreSchemaHandler) -> Any:
        """Have pydantic read and write a type as its text, for settings and records."""

        def read(value: object) -> AMIType:
            return value if isinstance(value, cls) else cls.parse(str(value))

        return handler.generate_schema(
            Annotated[Any, PlainValidator(read), PlainSerializer(str, return_type=str)]
        )

    @classmethod
    def parse(cls, text: str) -> AMIType:
        """Parse a type such as `hvm-gp2`. Raises ValueError for an invalid one."""
        virtualization, _, storage = text.partition("-")
        if storage == INSTANCE:
            return cls(Virtualization(virtualization), INSTANCE_STORE)
        volume_type = storage.removesuffix(f"-{ENCRYPTED}")
        if volume_type not in VOLUME_TYPES:
            raise ValueError(
                f"AMI type {quoted(text)} does not end in {' or '.join(VOLUME_TYPES)}, in one of "
                f"them and -{ENCRYPTED}, or in {INSTANCE}"
            )
        return cls(Virtualization(virtualization), volume_type, storage != volume_type)


@dataclass(frozen=True)
class Disk:
    """The uncompressed bytes of an image: their SHA-256 in hex digits, and their number."""

    sha256: str
    length: int


@dataclass(frozen=True)
class Attributes:
    """The attributes of an AMI that everybody sees who may launch it, with EC2's values.

    `owner` is the number of the account that owns the AMI, `partition` that of AWS in which its
    region is. A missing `boot_mode`, `tpm` or `imds` means that the AMI leaves it to the instance.
    """

    partition: str
    owner: str
    boot_mode: str | None = None
    tpm: str | None = None
    imds: str | None = None
    ena: bool = False


@dataclass(frozen=True)
class Options:
    """The options with which an AMI is made, beyond the attributes that every AMI has.

    `uefi_data` is the SHA-256 of its UEFI data, in hex digits. `iops` and `throughput`, in MiB/s,
    are those of its root volume. `supported` and `unsupported` are patterns of instance types.
    `protection` is that from deregistration once the AMI is public, with EC2's value.
    """

    sriov: bool = False
    uefi_data: str = ""
    iops: int | None = None
    throughput: int | None = None
    supported: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    protection: str = "disabled"


@dataclass(frozen=True)
class AMI:
    """One AMI of a job, in one region; `attributes` are known once EC2 has made it available.

    Of an instance-store type, `snapshot` is the id of the bundle (fedimg.aws.bundle.place).
    """

    id: str
    name: str
    region: str
    type: AMIType
    snapshot: str
    # Not compared: the others say which AMI it is, and jobs of older versions lack these.
    attributes: Attributes | None = field(default=None, compare=False)
    options: Options | None = field(default=None, compare=False)
