"""Test a bundle's parts."""

from __future__ import annotations

import hashlib
import random
import subprocess
import tracemalloc

import pytest

from fedimg.aws.bundle.stream import PART, Bundled, BundleStream, ContentKey, header

KEY = ContentKey(b"k" * 16, b"v" * 16)
MIB = 1024 * 1024


def bundle(raw: bytes, piece: int, key: ContentKey = KEY) -> tuple[Bundled, list[bytes]]:
    stream = BundleStream("disk.raw", len(raw), key)
    parts = [part for at in range(0, len(raw), piece) for part in stream.add(raw[at : at + piece])]
    parts += stream.finish()
    return stream.bundled(), parts


def test_pieces_of_any_size_give_the_same_parts() -> None:
    raw = random.Random(20).randbytes(23 * MIB + 77)
    bundled, parts = bundle(raw, 3 * MIB + 1)
    assert bundle(raw, 777_777) == (bundled, parts)
    assert [len(part) for part in parts[:-1]] == [PART, PART]
    assert 0 < len(parts[-1]) < PART
    assert [part.sha1 for part in bundled.parts] == [
        hashlib.sha1(part).hexdigest() for part in parts
    ]
    assert bundled.bundled_size == sum(map(len, parts))


def test_another_key_gives_other_parts() -> None:
    bundled, parts = bundle(b"a disk", 6)
    other, others = bundle(b"a disk", 6, ContentKey(b"K" * 16, b"v" * 16))
    assert other.digest == bundled.digest
    assert others != parts


@pytest.mark.parametrize("given", [b"12345", b"1234567"])
def test_an_image_of_another_size_is_refused(given: bytes) -> None:
    stream = BundleStream("disk.raw", 6, KEY)
    with pytest.raises(ValueError, match="expected"):
        list(stream.add(given)), list(stream.finish())


def test_memory_does_not_grow_with_the_image() -> None:
    stream = BundleStream("disk.raw", 100 * MIB, KEY)
    noise = random.Random(1).randbytes(4 * MIB)
    tracemalloc.start()
    try:
        for _ in range(25):
            for _part in stream.add(noise):
                pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * MIB


@pytest.mark.process
def test_tar_reads_a_size_that_octal_digits_have_no_room_for() -> None:
    # Tar lists the disk of 9 GiB by the archive's beginning; the bytes may end there.
    beginning = header("disk.raw", 9 * 1024**3)
    listed = subprocess.run(["tar", "-tv"], input=beginning, capture_output=True).stdout
    assert str(9 * 1024**3).encode() in listed
