"""Compare two images, because the same image is published only once.

Two checksums of the same algorithm decide. Otherwise an equal URL decides, together with the size
and, if both are known, the file server's validators. Otherwise the file's name and size decide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

from fedimg.images import RawImage

#: An ETag by RFC 9110, section 8.8.3, restricted to ASCII and 200 characters.
_ETAG = re.compile(r'(W/)?("[\x21\x23-\x7e]{0,200}")')
#: The one date format that servers may send, by RFC 9110, section 5.6.7.
_MODIFIED = re.compile(r"[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Validator:
    """A file server's identification of a file's version: ETag and Last-Modified, if it sends
    them.
    """

    etag: str | None = None
    modified: str | None = None

    @classmethod
    def of(cls, etag: str | None, modified: str | None) -> Validator:
        """Return the validator of two headers; an invalid header counts as missing."""
        return cls(
            etag if _ETAG.fullmatch(etag or "") else None,
            modified if _MODIFIED.fullmatch(modified or "") else None,
        )

    def contradicts(self, other: Validator) -> bool:
        """Return whether two validators of one URL belong to different versions of the file.

        Strong ETags decide. Weak ones may differ between the servers of one URL, so that
        Last-Modified decides before them.
        """
        own, others = _ETAG.fullmatch(self.etag or ""), _ETAG.fullmatch(other.etag or "")
        if own and others:
            if own[2] == others[2]:
                return False
            if not (own[1] or others[1]):
                return True
        if self.modified and other.modified:
            return self.modified != other.modified
        return bool(own and others)


class Likeness(Enum):
    """The result of comparing two images."""

    SAME = "same"
    OTHER = "other"
    #: Too little is known of one of the images.
    OPEN = "open"


@dataclass(frozen=True)
class Known:
    """An image, and its file server's validator of this version."""

    image: RawImage
    validator: Validator = field(default_factory=Validator)


def compare(one: Known, other: Known) -> tuple[Likeness, str]:
    """Return how two images compare, and, as text, the property that decided."""
    mine, theirs = one.image, other.image
    if (
        mine.checksum
        and theirs.checksum
        and _algorithm(mine.checksum) == _algorithm(theirs.checksum)
    ):
        equal = mine.checksum == theirs.checksum
        return (Likeness.SAME if equal else Likeness.OTHER), "the same checksum"
    sizes = mine.size is not None and theirs.size is not None
    if same_url(mine, theirs):
        changed = one.validator.contradicts(other.validator)
        if changed or (sizes and mine.size != theirs.size):
            return Likeness.OTHER, "the same URL"
        return (
            (Likeness.SAME, "the same URL and size") if sizes else (Likeness.OPEN, "the same URL")
        )
    if sizes and (mine.name, mine.size) == (theirs.name, theirs.size):
        return Likeness.SAME, "the same file name and size"
    return Likeness.OPEN, "nothing"


def same(one: Known, other: Known) -> str | None:
    """Return, as text, the property by which two images are the same; None if they are not.

    For an image that a person uploaded by its URL, the URL decides if too little else is known.
    """
    likeness, common = compare(one, other)
    by_hand = one.image.given_by_hand or other.image.given_by_hand
    if likeness is Likeness.SAME:
        return common
    if likeness is Likeness.OPEN and by_hand and same_url(one.image, other.image):
        return common
    return None


def same_url(one: RawImage, other: RawImage) -> bool:
    """Return whether two images have the same URL, with scheme, host and port normalized."""
    return _normalized(one.url) == _normalized(other.url)


def _algorithm(checksum: str) -> str:
    return checksum.partition(":")[0]


def _normalized(url: str) -> tuple[str, str, int | None, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme), parts.path
