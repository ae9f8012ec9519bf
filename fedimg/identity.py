"""Whether two images are the same one, which is published once.

An image is known by what was said of it and by what its file server tells. Where two checksums of
one kind are known, they decide. Else an equal address does, with the size and, where both have one,
the server's validator; else the file's name and size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

from fedimg.images import RawImage

#: RFC 9110, section 8.8.3, less what is not ASCII; and no longer than any server's.
_ETAG = re.compile(r'(W/)?("[\x21\x23-\x7e]{0,200}")')
#: RFC 9110, section 5.6.7: the one form in which a server may send a time.
_MODIFIED = re.compile(r"[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Validator:
    """What a file server calls this version of a file: its ETag and Last-Modified, if it does."""

    etag: str | None = None
    modified: str | None = None

    @classmethod
    def of(cls, etag: str | None, modified: str | None) -> Validator:
        """What two headers say; what is not of their form counts as not said."""
        return cls(
            etag if _ETAG.fullmatch(etag or "") else None,
            modified if _MODIFIED.fullmatch(modified or "") else None,
        )

    def contradicts(self, other: Validator) -> bool:
        """Whether the same address had another file when it had the other validator.

        A strong ETag decides. A weak one may differ from server to server behind one address, so
        that Last-Modified is asked first.
        """
        one, two = _ETAG.fullmatch(self.etag or ""), _ETAG.fullmatch(other.etag or "")
        if one and two:
            if one[2] == two[2]:
                return False
            if not (one[1] or two[1]):
                return True
        if self.modified and other.modified:
            return self.modified != other.modified
        return bool(one and two)


class Likeness(Enum):
    """How two images compare."""

    SAME = "same"
    OTHER = "other"
    #: Too little is known of one of them.
    OPEN = "open"


@dataclass(frozen=True)
class Known:
    """What is known of an image, and its file server's word on this version of it."""

    image: RawImage
    validator: Validator = field(default_factory=Validator)


def compare(one: Known, other: Known) -> tuple[Likeness, str]:
    """How two images compare, and what both have in common, in words."""
    mine, theirs = one.image, other.image
    if mine.checksum and theirs.checksum and _kind(mine.checksum) == _kind(theirs.checksum):
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
    """By what two images are taken for one; None when they are not.

    A person names an image by its URL alone: where too little is known to tell, the URL counts.
    """
    likeness, common = compare(one, other)
    by_hand = one.image.given_by_hand or other.image.given_by_hand
    if likeness is Likeness.SAME:
        return common
    if likeness is Likeness.OPEN and by_hand and same_url(one.image, other.image):
        return common
    return None


def same_url(one: RawImage, other: RawImage) -> bool:
    """Whether two images have one address, however its scheme, host and port are written."""
    return _plain(one.url) == _plain(other.url)


def _kind(checksum: str) -> str:
    return checksum.partition(":")[0]


def _plain(url: str) -> tuple[str, str, int | None, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme), parts.path
