"""Test measuring .xz files at URLs.

Follows fedimg/aws/write/remote_file.py, fedimg/aws/write/units.py.
"""

import lzma
import os
import random
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from fedimg.aws.write.image_errors import ImageUnreachable, ImageUnusable
from fedimg.aws.write.image_size import ImageSize, image_size, measured
from fedimg.aws.write.remote_file import WINDOW
from fedimg.aws.write.units import GIB, gib
from fedimg.aws.write.xz_dictionary import MIB
from fedimg.config import EC2
from fedimg.exceptions import Cancelled
from fedimg.images import Architecture, RawImage
from fedimg.sources.file_server import RedirectRefused, Trusted
from tests.aws.web import Web, serve

pytestmark = pytest.mark.process

NOISE = random.Random(4).randbytes(600_000)


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as web:
        yield web


def compress(data: bytes, *options: str) -> bytes:
    return subprocess.run(
        ["xz", "--stdout", *options], input=data, capture_output=True, check=True
    ).stdout


def test_one_stream_needs_two_requests_and_few_bytes(web: Web) -> None:
    packed = compress(NOISE, "-0")
    url = web.put("one.raw.xz", packed)
    size = image_size(url, maximum=GIB)
    assert size == ImageSize(len(packed), size.blocks)
    assert [block.size for block in size.blocks] == [len(NOISE)] == [size.uncompressed_size]
    assert len(web.asked) <= 3
    assert web.sent < 2 * WINDOW


def test_several_blocks_are_measured(web: Web) -> None:
    packed = compress(NOISE, "-0", "-T2", "--block-size=100000")
    assert image_size(web.put("blocks.raw.xz", packed), maximum=GIB).uncompressed_size == 600_000


def test_several_streams_and_padding_between_and_behind_them(web: Web) -> None:
    parts = [compress(NOISE[:100_000], "-0"), b"\0" * 8, compress(NOISE, "-0"), b"\0" * 4096]
    packed = b"".join([*parts, compress(b"end"), b"\0" * 4])
    size = image_size(web.put("streams.raw.xz", packed), maximum=GIB)
    assert size.compressed_size == len(packed)
    assert size.uncompressed_size == 100_000 + 600_000 + 3


def test_empty_stream_among_others_is_measured(web: Web) -> None:
    packed = compress(b"") + compress(b"image") + compress(b"")
    assert image_size(web.put("empty.raw.xz", packed), maximum=GIB).uncompressed_size == 5


def test_file_without_data_is_refused(web: Web) -> None:
    with pytest.raises(ImageUnusable, match="without any data"):
        image_size(web.put("nothing.raw.xz", compress(b"")), maximum=GIB)


def test_image_larger_than_the_maximum_is_refused(web: Web) -> None:
    url = web.put("large.raw.xz", lzma.compress(bytes(2_000_000)))
    with pytest.raises(ImageUnusable, match=r"large.raw.xz holds an image of .*limits.image_gib"):
        image_size(url, maximum=1_999_999)
    assert image_size(url, maximum=2_000_000).uncompressed_size == 2_000_000


@pytest.mark.parametrize("lost", [1, 4, 12, 40, 100_000])
def test_truncated_file_is_refused(web: Web, lost: int) -> None:
    url = web.put("short.raw.xz", compress(NOISE, "-0")[:-lost])
    with pytest.raises(ImageUnusable, match=r"not a complete \.xz file: its footer is missing"):
        image_size(url, maximum=GIB)


def test_file_without_its_beginning_is_refused(web: Web) -> None:
    whole = compress(NOISE, "-0")
    with pytest.raises(ImageUnusable, match=r"not a complete \.xz file"):
        image_size(web.put("tail.raw.xz", whole[:12] + whole[200_000:]), maximum=GIB)


def test_damaged_index_is_refused(web: Web) -> None:
    packed = bytearray(compress(b"image" * 1000))
    packed[-16] ^= 1
    with pytest.raises(ImageUnusable, match=r"damaged .*index crc32"):
        image_size(web.put("damaged.raw.xz", bytes(packed)), maximum=GIB)


@pytest.mark.parametrize("content", [b"<html>Not here</html>" * 9, b"x", b"\xfd7zXZ\x00"])
def test_file_that_is_not_xz_is_refused(web: Web, content: bytes) -> None:
    with pytest.raises(ImageUnusable, match=r"not an \.xz file|not a complete \.xz file"):
        image_size(web.put("page.raw.xz", content), maximum=GIB)


def test_empty_file_is_refused(web: Web) -> None:
    with pytest.raises(ImageUnusable, match="too short"):
        image_size(web.put("zero.raw.xz", b""), maximum=GIB)


def test_an_index_that_claims_to_be_huge_is_not_fetched(web: Web) -> None:
    packed = bytearray(compress(NOISE, "-0"))
    fields = struct.pack("<IBB", 400_000, 0, packed[7])
    packed[-12:] = struct.pack("<I", zlib.crc32(fields)) + fields + b"YZ"
    with pytest.raises(ImageUnusable, match="damaged"):
        image_size(web.put("bomb.raw.xz", bytes(packed)), maximum=GIB)
    assert web.sent < 3 * WINDOW


def test_the_number_of_requests_is_bounded(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedimg.aws.write.remote_file.MOST_REQUESTS", 20)
    stream = compress(os.urandom(WINDOW), "-0")
    url = web.put("many.raw.xz", stream * 20)
    with pytest.raises(ImageUnusable, match="too many streams: 20 requests .* as 'xz -T0' does"):
        image_size(url, maximum=GIB)
    assert len(web.asked) == 20


def test_file_of_many_long_streams_is_measured_with_a_request_each(web: Web) -> None:
    stream = compress(os.urandom(WINDOW), "-0")
    url = web.put("many.raw.xz", stream * 150)
    assert image_size(url, maximum=GIB).uncompressed_size == 150 * WINDOW
    assert len(web.asked) < 155


def test_much_padding_is_read_past(web: Web) -> None:
    """`xz --test` accepts any multiple of four zeros, too."""
    url = web.put("padded.raw.xz", compress(b"image") + bytes(7 * MIB))
    assert image_size(url, maximum=GIB).uncompressed_size == 5
    assert len(web.asked) < 32


def test_file_that_takes_too_much_memory_to_unpack_is_refused_with_the_remedy(web: Web) -> None:
    packed = compress(bytes(97 * MIB), "--lzma2=preset=0,dict=128MiB")
    with pytest.raises(ImageUnusable, match=r"a dictionary of 128 MiB.* 'xz -9' or less"):
        image_size(web.put("wide.raw.xz", packed), maximum=GIB)


def test_dictionary_that_the_image_does_not_fill_is_accepted(web: Web) -> None:
    packed = compress(bytes(96 * MIB), "--lzma2=preset=0,dict=1GiB")
    assert image_size(web.put("small.raw.xz", packed), maximum=GIB).uncompressed_size == 96 * MIB


def test_many_short_streams_share_requests(web: Web) -> None:
    url = web.put("many.raw.xz", compress(b"image") * 5000)
    assert image_size(url, maximum=GIB).uncompressed_size == 25_000
    assert len(web.asked) < 20


def test_whole_file_in_place_of_its_end_is_read_where_it_is_small(web: Web) -> None:
    web.manner = "without Range"
    packed = compress(NOISE, "-0")
    size = image_size(web.put("one.raw.xz", packed), maximum=GIB)
    assert (size.compressed_size, size.uncompressed_size) == (len(packed), len(NOISE))


def test_large_file_is_asked_for_past_a_cache_that_sends_it_whole(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedimg.aws.write.remote_file.LARGEST_UNRANGED", 1000)
    web.manner = "behind a cache"
    packed = compress(NOISE, "-0")
    assert image_size(web.put("one.raw.xz", packed), maximum=GIB).compressed_size == len(packed)
    assert len(web.asked) <= 4


def test_large_file_of_a_server_without_ranges_may_pass(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedimg.aws.write.remote_file.LARGEST_UNRANGED", 1000)
    web.manner = "without Range"
    with pytest.raises(ImageUnreachable, match="ignores the Range header"):
        image_size(web.put("one.raw.xz", compress(NOISE, "-0")), maximum=GIB)


def test_file_that_is_larger_than_any_such_image_is_refused(web: Web) -> None:
    url = web.put("padded.raw.xz", compress(b"image") + bytes(3 << 20))
    with pytest.raises(ImageUnusable, match="GiB for an image"):
        image_size(url, maximum=1 << 20)


def test_expired_address_of_a_redirect_is_asked_for_again(web: Web) -> None:
    packed = compress(NOISE, "-0")
    web.put("there.raw.xz", packed)
    web.signed["/here.raw.xz"] = "/there.raw.xz"
    web.good_for = 1
    size = image_size(f"{web.address}/here.raw.xz", maximum=GIB)
    assert size.compressed_size == len(packed)
    assert len(web.signatures) > 1


@pytest.mark.parametrize("manner", ["cut", "unavailable", "gone"])
def test_signature_of_a_redirect_stands_in_no_text(web: Web, manner: Any) -> None:
    url = web.put("there.raw.xz", compress(NOISE, "-0"))
    web.signed["/here.raw.xz"] = "/there.raw.xz"
    if manner == "gone":
        web.good_for = 0
    else:
        web.manner = manner
    with pytest.raises(ImageUnusable) as caught:
        image_size(f"{web.address}/here.raw.xz", maximum=GIB)
    assert f"{web.address}/here.raw.xz" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert url not in str(caught.value)


def test_redirects_are_followed_once(web: Web) -> None:
    packed = compress(NOISE, "-0")
    web.redirects["/here.raw.xz"] = web.put("there.raw.xz", packed)
    assert image_size(f"{web.address}/here.raw.xz", maximum=GIB).compressed_size == len(packed)
    assert [line.split()[0] for line in web.asked].count("/here.raw.xz") == 1


def test_redirects_to_another_host_are_followed_where_that_is_trusted(web: Web) -> None:
    packed = compress(NOISE, "-0")
    there = web.put("there.raw.xz", packed).replace("127.0.0.1", "LocalHost")
    web.redirects["/here.raw.xz"] = there
    here = f"{web.address}/here.raw.xz"
    with pytest.raises(ImageUnusable, match=r"redirects to localhost.*redirect_hosts") as caught:
        image_size(here, maximum=GIB)
    assert not isinstance(caught.value, ImageUnreachable)
    assert [line.split()[0] for line in web.asked] == ["/here.raw.xz"]
    size = image_size(here, maximum=GIB, trusted=Trusted(redirects=["localhost"]))
    assert size.compressed_size == len(packed)


def test_redirects_that_do_not_end_are_given_up(web: Web) -> None:
    web.redirects["/loop"] = "/loop"
    with pytest.raises(ImageUnreachable, match="/loop: it redirects more than 5 times"):
        image_size(f"{web.address}/loop", maximum=GIB)
    assert len(web.asked) < 10


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/image",
        "http://[",
        "http://[::1",
        "http://127.0.0.1:none/",
        "//user@127.0.0.1/",
        "http://127.0.0.1\\@localhost/",
        "http://127.0.0.1:80:80/",
        "http://host name/",
        "\xff\xfe",
        "http://\xff\xfe/",
    ],
)
def test_redirect_to_an_invalid_address_is_refused(web: Web, target: str) -> None:
    web.redirects["/here"] = target
    with pytest.raises(ImageUnusable, match=r"/here redirects to something that is n") as caught:
        image_size(f"{web.address}/here", maximum=GIB)
    assert not isinstance(caught.value, ImageUnreachable)
    assert len(web.asked) == 1


def test_redirect_to_a_very_long_url_is_refused(web: Web) -> None:
    web.redirects["/here"] = "/there?" + "a" * 9000
    with pytest.raises(ImageUnusable, match="redirects to a URL of 90[0-9]{2} characters"):
        image_size(f"{web.address}/here", maximum=GIB)
    with pytest.raises(ImageUnusable, match="has 80[0-9]{2} characters"):
        image_size(f"{web.address}/".ljust(8030, "a"), maximum=GIB)


def test_signature_of_some_thousand_characters_is_accepted(web: Web) -> None:
    packed = compress(NOISE, "-0")
    web.put("there.raw.xz", packed)
    web.redirects["/here.raw.xz"] = f"/there.raw.xz?{'a' * 2500}"
    web.signatures["a" * 2500] = 0
    assert image_size(f"{web.address}/here.raw.xz", maximum=GIB).compressed_size == len(packed)


HTTPS, HTTP = "https://koji.example/a", "http://koji.example/a"


@pytest.mark.parametrize(
    ("trusted", "asked", "target", "allowed"),
    [
        (Trusted(), HTTPS, HTTPS, True),
        (Trusted(), HTTP, HTTP, True),
        (Trusted(), HTTP, HTTPS, True),
        (Trusted(), HTTPS, HTTP, False),
        (Trusted(plain_http=["KOJI.example"]), HTTPS, HTTP, True),
        (Trusted(plain_http=["cdn.example"]), HTTPS, HTTP, False),
        (Trusted(redirects=["cdn.example"]), HTTPS, "http://cdn.example/a", False),
        (Trusted(["cdn.example"], ["cdn.example"]), HTTPS, "http://cdn.example/a", True),
        (Trusted(plain_http=["cdn.example"]), HTTPS, "http://cdn.example/a", False),
        # Over http already, which the setting allowed.
        (Trusted(["cdn.example"], ["koji.example"], True), HTTP, "http://cdn.example/a", False),
    ],
)
def test_redirect_from_https_to_http_needs_a_setting(
    trusted: Trusted, asked: str, target: str, allowed: bool
) -> None:
    with nullcontext() if allowed else pytest.raises(RedirectRefused, match="plain_http|redirect_"):
        trusted.refuse_untrusted_redirect(asked, asked, target)


def scratch(url: str, **changes: Any) -> RawImage:
    return RawImage(url, Architecture.X86_64, "Fedora-1-1", **{"source": "task-5", **changes})


def test_image_without_a_checksum_comes_over_https_alone(web: Web) -> None:
    url = web.put("scratch.raw.xz", compress(NOISE, "-0"))
    stop = threading.Event()
    with pytest.raises(ImageUnusable, match=r"no checksum.*ec2\.plain_http_hosts"):
        measured(scratch(url), EC2(), stop, print)
    assert web.asked == []
    measured(scratch(url), EC2(plain_http_hosts=["127.0.0.1"]), stop, print)
    measured(scratch(url, source="build-5", checksum="md5:" + "0" * 32), EC2(), stop, print)
    # By hand: whoever gave the address has seen it.
    measured(RawImage.at(url, Architecture.X86_64, None), EC2(), stop, print)


def test_missing_file_is_refused(web: Web) -> None:
    with pytest.raises(ImageUnusable, match="404") as caught:
        image_size(f"{web.address}/none.raw.xz", maximum=GIB)
    assert not isinstance(caught.value, ImageUnreachable)


def test_unavailable_server_may_be_retried(web: Web) -> None:
    web.manner = "unavailable"
    with pytest.raises(ImageUnreachable, match="503"):
        image_size(web.put("one.raw.xz", b"x"), maximum=GIB)
    assert len(web.asked) == 3


def test_cut_connection_may_be_retried(web: Web) -> None:
    web.manner = "cut"
    with pytest.raises(ImageUnreachable, match=r"one\.raw\.xz"):
        image_size(web.put("one.raw.xz", compress(NOISE, "-0")), maximum=GIB)


def test_server_that_refuses_connections_is_reported() -> None:
    with pytest.raises(ImageUnreachable, match=r"127\.0\.0\.1"):
        image_size("http://127.0.0.1:9/one.raw.xz", maximum=GIB)


def test_slow_server_is_given_up_at_the_limit(web: Web) -> None:
    web.manner = "slow"
    began = time.monotonic()
    with pytest.raises(ImageUnreachable, match="too slow"):
        image_size(web.put("one.raw.xz", compress(NOISE, "-0")), maximum=GIB, limit=1)
    assert time.monotonic() - began < 25


def test_gib_rounds_up() -> None:
    assert [gib(1), gib(GIB), gib(GIB + 1), gib(5 * GIB)] == [1, 1, 2, 5]


def test_silent_server_does_not_hold_up_a_job_that_is_cancelled(web: Web) -> None:
    web.manner = "stalled"
    url = web.put("silent.raw.xz", compress(NOISE))
    stop = threading.Event()
    stopping = threading.Timer(0.5, stop.set)
    stopping.start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        measured(hand(url), EC2(), stop, print)
    # One answer alone would be waited for 20 s.
    assert time.monotonic() - began < 15
    stopping.join()


def test_error_of_the_measuring_thread_is_raised_in_the_job(web: Web) -> None:
    url = web.put("sound.raw.xz", compress(NOISE))
    stop = threading.Event()
    assert measured(hand(url), EC2(), stop, print) == image_size(url, maximum=GIB)
    web.files.clear()
    with pytest.raises(ImageUnusable, match="404"):
        measured(hand(url), EC2(), stop, print)


def hand(url: str) -> RawImage:
    return RawImage.at(url, Architecture.X86_64, None)
