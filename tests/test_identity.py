"""The identity of images: by checksum, by URL and validator, by name and size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedimg.identity import Known, Likeness, Validator, compare, same
from fedimg.images import Architecture, RawImage

URL = "https://koji.example.org/images/Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"
MIRROR = URL.replace("koji", "mirror")
MD5, SHA256, OTHER = "md5:" + "1" * 32, "sha256:" + "2" * 64, "sha256:" + "3" * 64
THEN, LATER = "Sat, 28 Nov 2026 10:00:00 GMT", "Sat, 28 Nov 2026 11:00:00 GMT"


def uploaded(
    url: str = URL, size: int | None = 5, checksum: str | None = None, *said: str | None
) -> Known:
    image = replace(RawImage.at(url, Architecture.X86_64, checksum), size=size)
    return Known(image, Validator.of(*said) if said else Validator())


def built(url: str = URL, size: int | None = 5, checksum: str | None = MD5) -> Known:
    return Known(RawImage(url, Architecture.X86_64, "Fedora-28", "build-7", size, checksum))


@pytest.mark.parametrize(
    ("one", "other", "by"),
    [
        (uploaded(checksum=SHA256), built(MIRROR, 7, SHA256), "the same checksum"),
        (uploaded(checksum=SHA256), built(), "the same URL and size"),
        (uploaded(), built(), "the same URL and size"),
        (uploaded(MIRROR), built(), "the same file name and size"),
        (uploaded(URL.replace("koji.e", "KOJI.E")), built(), "the same URL and size"),
        (uploaded(URL.replace("https", "HTTPS")), built(), "the same URL and size"),
        (uploaded(URL.replace(".org", ".org:443")), built(), "the same URL and size"),
        # The URL is what a person names an image by; nothing speaks against it.
        (uploaded(size=None), built(), "the same URL"),
        (uploaded(), built(size=None), "the same URL"),
        (
            uploaded(URL, None, None, '"a"', None),
            uploaded(URL, None, None, '"a"', None),
            "the same URL",
        ),
        # Two of a kind that differ are two images, whatever else is equal.
        (uploaded(checksum=OTHER), built(checksum=SHA256), None),
        # A re-spin.
        (uploaded(size=6), built(), None),
        (uploaded(URL, 5, None, '"a"', THEN), uploaded(URL, 5, None, '"b"', LATER), None),
        (uploaded(URL, None, None, '"a"', THEN), uploaded(URL, None, None, '"b"', LATER), None),
        # Too little is known of one.
        (uploaded(MIRROR, None), built(), None),
        (built(size=None, checksum=None), built(size=None), None),
        (uploaded(URL.replace("images", "Images"), None), built(), None),
        (uploaded(URL.replace("https", "http"), None), built(), None),
        # ETags of two servers have nothing to do with each other.
        (
            uploaded(URL, 5, None, '"a"', THEN),
            uploaded(MIRROR, 5, None, '"b"', LATER),
            "the same file name and size",
        ),
    ],
)  # fmt: skip
def test_same_image_is_recognized_by_what_is_known_of_both(
    one: Known, other: Known, by: str | None
) -> None:
    assert same(one, other) == same(other, one) == by


def test_two_koji_images_with_one_url_are_not_the_same_without_size_or_checksum() -> None:
    one, other = built(size=None, checksum=None), built(size=None, checksum=None)
    other = Known(replace(other.image, source="task-8"))
    assert compare(one, other)[0] is Likeness.OPEN
    assert same(one, other) is None


@pytest.mark.parametrize(
    ("one", "other", "changed"),
    [
        (('"a"', THEN), ('"a"', THEN), False),
        (('"a"', THEN), ('"b"', THEN), True),
        (('"a"', THEN), ('"a"', LATER), False),
        (('"a"', None), ('"b"', None), True),
        (('"a"', None), (None, THEN), False),
        ((None, None), ('"b"', THEN), False),
        ((None, THEN), (None, LATER), True),
        ((None, THEN), ('"b"', THEN), False),
        # Weak ones: of a server among several behind one address.
        (('W/"a"', THEN), ('"a"', LATER), False),
        (('W/"a"', THEN), ('W/"b"', THEN), False),
        (('W/"a"', THEN), ('W/"b"', LATER), True),
        (('W/"a"', None), ('W/"b"', THEN), True),
    ],
)
def test_strong_etag_decides_before_last_modified_and_a_weak_one_behind_it(
    one: tuple[str, str], other: tuple[str, str], changed: bool
) -> None:
    first, second = Validator.of(*one), Validator.of(*other)
    assert first.contradicts(second) is second.contradicts(first) is changed


@pytest.mark.parametrize(
    "etag", ["a", '"', '"a', '"a" "b"', '"a\x1b[2J"', '"a\nb"', '"é"', f'"{"a" * 201}"', "", None]
)
def test_invalid_etag_is_ignored(etag: str | None) -> None:
    assert Validator.of(etag, None) == Validator()


@pytest.mark.parametrize(
    "date", ["yesterday", "Sat, 28 Nov 2026 10:00:00 +0000", THEN + " ", f"{THEN}\n", "", None]
)
def test_invalid_last_modified_is_ignored(date: str | None) -> None:
    assert Validator.of(None, date) == Validator()
