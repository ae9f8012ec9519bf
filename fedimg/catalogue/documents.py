"""Define the catalogue's JSON documents; their JSON Schemas are made from these classes.

Times are strings of RFC 3339, in UTC. A value that is not known is null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from fedimg.records import adapter

#: What another account can do with an AMI.
PUBLIC, WITHDRAWN, DISABLED, DELETED, PRIVATE = (
    "public",
    "withdrawn",
    "disabled",
    "deleted",
    "private",
)


@dataclass(frozen=True)
class CheckRecord:
    """One check of the image: a test instance booted from these bytes and ran it.

    `state` is passed or skipped: a check that does not apply to an image is skipped.
    """

    name: str
    state: str
    seconds: float


@dataclass(frozen=True)
class BootCheck:
    """The boot of a test instance from an AMI, and its checks; `at` is when they had passed."""

    region: str
    ami: str
    virtualization: str
    volume_type: str
    at: str
    checks: Sequence[CheckRecord]


@dataclass(frozen=True)
class ImageFacts:
    """An image that was published: its raw image file, that file's origin, and the disk in it.

    `image` is the file's name without its suffix; `checksum` is ALGORITHM:HEX, and `size` the
    bytes, of the compressed file; `disk_sha256` and `disk_length` are those of the raw disk.
    `release` is a version such as 43 or Rawhide; an image that belongs to no release has none.
    """

    image: str
    release: str | None
    architecture: str
    kind: str
    build: str | None
    url: str
    checksum: str | None
    size: int | None
    disk_sha256: str | None
    disk_length: int | None
    boot_checks: Sequence[BootCheck]


@dataclass(frozen=True)
class AMIFacts:
    """One AMI as it was published, with EC2's names for its attributes.

    An AMI without a `boot_mode`, `tpm` or `imds` leaves that to the instance.
    """

    region: str
    ami: str
    name: str
    snapshot: str
    virtualization: str
    volume_type: str
    partition: str | None
    owner: str | None
    boot_mode: str | None
    tpm: str | None
    imds: str | None
    ena: bool | None
    published: str | None


@dataclass(frozen=True)
class AMIState(AMIFacts):
    """One AMI, and what became of it.

    `state` is public, withdrawn, disabled, deleted or private; `reason` and `replacement`, the name
    of another image, are those of a withdrawal. `deprecated` is when EC2 begins to hide the AMI
    from searches, if a rule of the site's says so. At `verified` the record was last compared with
    EC2, and `difference` is what differed, or null.
    """

    state: str
    changed: str | None
    reason: str | None
    replacement: str | None
    deprecated: str | None
    verified: str | None
    difference: str | None


@dataclass(frozen=True)
class PublishedImage(ImageFacts):
    """An image and its AMIs as they were published."""

    amis: Sequence[AMIFacts]


@dataclass(frozen=True)
class Publication:
    """The facts of a publication, in a file that never changes.

    `source` is build-ID, compose-ID, task-ID or url-HASH. Regions that follow later are in a file
    of their own.
    """

    source: str
    published: str | None
    images: Sequence[PublishedImage]


@dataclass(frozen=True)
class ImageState(ImageFacts):
    """An image and all of its AMIs, with their states; `files` are its publications' files."""

    files: Sequence[str]
    amis: Sequence[AMIState]


@dataclass(frozen=True)
class Release:
    """All images of a release, the newest first; images of no release are together.

    What a build or compose made is together, also an image whose name does not tell its release.
    """

    release: str | None
    images: Sequence[ImageState]


@dataclass(frozen=True)
class ImageSummary:
    """An image in the list of all; `states` has the number of its AMIs in each state.

    `verified` is the oldest time at which an AMI was last compared with EC2.
    """

    image: str
    architecture: str
    kind: str
    build: str | None
    published: str | None
    deprecated: str | None
    verified: str | None
    states: Mapping[str, int]
    reason: str | None
    replacement: str | None
    files: Sequence[str]


@dataclass(frozen=True)
class ReleaseSummary:
    """A release in the list of all; `file` has its AMIs."""

    release: str | None
    file: str
    images: Sequence[ImageSummary]


@dataclass(frozen=True)
class Images:
    """All images that were ever published, by release."""

    releases: Sequence[ReleaseSummary]


@dataclass(frozen=True)
class LatestAMI:
    """The newest public AMI of one region."""

    ami: str
    image: str
    published: str | None


@dataclass(frozen=True)
class Latest:
    """The newest public AMIs of a series of images, of one architecture and type, by region.

    The newest is that of the newest build or compose, whenever it was published. `series` is what
    the images' names have in common; `image` is the newest one's name.
    """

    release: str
    series: str
    kind: str
    architecture: str
    virtualization: str
    volume_type: str
    partition: str | None
    owner: str | None
    image: str
    build: str | None
    regions: Mapping[str, LatestAMI] = field(default_factory=dict)


@dataclass(frozen=True)
class LatestAMIs:
    """The newest public AMIs of all releases; the newest release is the first."""

    latest: Sequence[Latest]


@dataclass(frozen=True)
class PublicKey:
    """A key that signs the statements since a time; `public` is its public half in PEM."""

    keyid: str
    public: str
    since: str | None


@dataclass(frozen=True)
class PublicKeys:
    """The keys that signed statements; the newest is the first, and the others are retired."""

    keys: Sequence[PublicKey]


#: The documents, by the names of their schemas.
SCHEMAS: Mapping[str, type] = {
    "publication": Publication,
    "release": Release,
    "images": Images,
    "latest": LatestAMIs,
    "keys": PublicKeys,
}


def as_json(document: object) -> bytes:
    """Return a document as JSON on one line."""
    of: Any = type(document)
    text: bytes = adapter(of).dump_json(document)
    return text + b"\n"


def release_parts(release: str | None, images: Iterable[ImageState]) -> Iterator[bytes]:
    """Yield a Release as JSON, an image at a time: a release may have tens of thousands of AMIs."""
    begin, end = as_json(Release(release, [])).split(b"[]")
    yield begin + b"["
    for number, image in enumerate(images):
        yield (b",\n" if number else b"") + as_json(image).rstrip()
    yield b"]" + end


def schema(document: type) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a class of documents."""
    described = adapter(document).json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **described}


def time(seconds: float | None) -> str | None:
    """Return a time of the record, in seconds since the epoch, as RFC 3339 with whole seconds."""
    return None if seconds is None else _time(int(seconds))


# The AMIs of an image become public, and are compared, within a few seconds.
@lru_cache(maxsize=1024)
def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
