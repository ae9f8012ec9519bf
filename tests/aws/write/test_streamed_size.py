"""Test measuring images in formats whose files do not tell their sizes."""

from __future__ import annotations

import gzip
import hashlib
import random
import threading
import time
from collections.abc import Iterator

import pytest
from backports import zstd

from fedimg.aws.write.download import Download
from fedimg.aws.write.image_errors import ImageUnreachable, ImageUnusable
from fedimg.aws.write.image_size import OWN_HOST_ONLY, measured
from fedimg.aws.write.remote_file import WINDOW
from fedimg.aws.write.streamed_size import streamed_size
from fedimg.aws.write.units import GIB
from fedimg.config import EC2
from fedimg.exceptions import Cancelled
from fedimg.images import Architecture, RawImage
from tests.aws.web import Web, serve

pytestmark = pytest.mark.process

MIB = 1024 * 1024
IMAGE = random.Random(9).randbytes(2 * MIB) + bytes(1000)
#: Each format's file of two frames or members.
TWO = {
    "raw.zst": zstd.compress(IMAGE[:MIB]) + zstd.compress(IMAGE[MIB:]),
    "raw.gz": gzip.compress(IMAGE[:MIB]) + gzip.compress(IMAGE[MIB:]),
}


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as web:
        yield web


def at(url: str, packed: bytes, *, checksum: str = "", size: int | None = None) -> RawImage:
    right = f"sha256:{hashlib.sha256(packed).hexdigest()}"
    return RawImage(url, Architecture.X86_64, "b-1-1", "build-1", size, checksum or right)


def measure(image: RawImage, *, gib: int = 1, idle: float = 20, write: float = 60) -> int:
    limits = {"image_gib": gib, "write_idle": idle, "write": write}
    size = measured(image, EC2(limits=limits), threading.Event(), print)
    assert [(part.start, part.at, part.end) for part in size.blocks] == [
        (0, 0, size.compressed_size)
    ]
    return size.uncompressed_size


@pytest.mark.parametrize("suffix", TWO)
def test_whole_file_is_read_as_each_frame_tells_its_own_size_alone(web: Web, suffix: str) -> None:
    packed = TWO[suffix]
    url = web.put(f"a.{suffix}", packed)
    assert measure(at(url, packed, size=len(packed))) == len(IMAGE)
    assert web.asked == [f"/a.{suffix} bytes=0-17", f"/a.{suffix}"]


def test_plain_image_is_as_large_as_its_file(web: Web) -> None:
    assert measure(at(web.put("a.raw", IMAGE), IMAGE)) == len(IMAGE)
    assert web.sent < 2 * WINDOW


@pytest.mark.parametrize("suffix", TWO)
def test_download_that_is_cut_goes_on_where_it_was(web: Web, suffix: str) -> None:
    packed = TWO[suffix]
    url = web.put(f"a.{suffix}", packed)
    web.manner, web.times = "cut", 3
    length = streamed_size(
        at(url, packed).format,
        Download(url, size=len(packed), checksum=None, idle=20, trusted=OWN_HOST_ONLY),
        file_size=len(packed),
        maximum=GIB,
        limit=60,
        stop=threading.Event(),
        on_progress=print,
    )
    assert length == len(IMAGE)
    assert web.asked[1] == f"/a.{suffix} bytes={len(packed) // 2}-"
    assert len(web.asked) == 4


@pytest.mark.parametrize("suffix", TWO)
def test_other_checksum_is_refused(web: Web, suffix: str) -> None:
    packed = TWO[suffix]
    wrong = at(web.put(f"a.{suffix}", packed), packed, checksum="md5:" + "0" * 32)
    with pytest.raises(ImageUnusable, match=f"a.{suffix}: checksum: the file has md5:"):
        measure(wrong)


@pytest.mark.parametrize("suffix", TWO)
def test_incomplete_file_is_refused(web: Web, suffix: str) -> None:
    packed = TWO[suffix][:-5]
    with pytest.raises(ImageUnusable, match=r"decompression: the file ends within a"):
        measure(at(web.put(f"a.{suffix}", packed), packed))


@pytest.mark.parametrize(
    ("suffix", "packed"),
    [
        pytest.param("raw.zst", zstd.compress(b""), id="zst"),
        pytest.param("raw.gz", gzip.compress(b""), id="gz"),
    ],
)
def test_file_without_data_is_refused(web: Web, suffix: str, packed: bytes) -> None:
    with pytest.raises(ImageUnusable, match=r"is a \.\w+ file without any data"):
        measure(at(web.put(f"a.{suffix}", packed), packed))


def bomb(suffix: str) -> bytes:
    """Return a file of little more than a GiB of zeros, in many frames of unknown size."""
    if suffix == "raw.gz":
        return gzip.compress(bytes(129 * MIB), 1) * 8
    compressor = zstd.ZstdCompressor()
    return (compressor.compress(bytes(129 * MIB)) + compressor.flush()) * 8


@pytest.mark.parametrize("suffix", TWO)
def test_image_larger_than_the_limit_is_refused(web: Web, suffix: str) -> None:
    packed = bomb(suffix)
    image = at(web.put(f"a.{suffix}", packed), packed)
    with pytest.raises(ImageUnusable, match=r"of more than 1 GiB, .* 1 GiB \(ec2.limits.image_gib"):
        measure(image)


def test_frame_that_claims_too_much_is_refused_before_the_file_is_read(web: Web) -> None:
    header = b"\x28\xb5\x2f\xfd\xc0\x30" + (5 * GIB).to_bytes(8, "little")
    packed = header + bytes(MIB)
    with pytest.raises(ImageUnusable, match=r"a.raw.zst holds an image of 5 GiB, and the limit"):
        measure(at(web.put("a.raw.zst", packed), packed))
    assert len(web.asked) == 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.raw", gzip.compress(IMAGE), r"is no image but a \.gz file: its name has to end"),
        ("a.raw", zstd.compress(IMAGE), r"is no image but a \.zst file"),
        ("a.raw.zst", gzip.compress(IMAGE), r"is not a \.zst file: its first bytes are 1f 8b"),
        ("a.raw.gz", b"<html>", r"is not a \.gz file: its first bytes are 3c 68"),
        ("a.raw", b"", "too short"),
    ],
)
def test_file_of_another_format_is_refused(
    web: Web, name: str, content: bytes, reason: str
) -> None:
    with pytest.raises(ImageUnusable, match=reason):
        measure(at(web.put(name, content), content))
    assert len(web.asked) == 1


def test_file_that_takes_too_long_may_be_read_later(web: Web) -> None:
    packed = TWO["raw.gz"]
    url = web.put("a.raw.gz", packed)
    web.manner, web.times, web.then = "well", 1, "stalled"
    with pytest.raises(ImageUnreachable, match=r"whole file.* timed out .*ec2\.limits\.write"):
        measure(at(url, packed), idle=30, write=1)


def test_stop_ends_the_measurement(web: Web) -> None:
    packed = TWO["raw.gz"]
    image = at(web.put("a.raw.gz", packed), packed)
    web.manner, web.times, web.then = "well", 1, "stalled"
    stop = threading.Event()
    threading.Timer(1, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        measured(image, EC2(limits={"write_idle": 60}), stop, print)
    assert time.monotonic() - began < 30
