"""Test decompressing whole files with those that the programs make, and those that nobody should.

The programs zstd and gzip, which a utility instance runs, are asked about the same files.
Follows fedimg/formats.py.
"""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
from collections.abc import Iterable

import pytest
from backports import zstd

from fedimg.aws.write.image_errors import ImageUnusable
from fedimg.aws.write.stream_decoders import decoded
from fedimg.formats import FORMATS, GZIP, PLAIN, XZ, ZSTD, Format, format_of, without_suffix

MIB = 1024 * 1024
IMAGE = random.Random(3).randbytes(300_000) + bytes(3 * MIB) + b"end"
SKIPPED = b"\x5a\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"comment"


def run(command: list[str], content: bytes) -> bytes:
    return subprocess.run(command, input=content, capture_output=True, check=True).stdout


def pieces(content: bytes, size: int = 50_000) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def image(form: Format, given: Iterable[bytes]) -> bytes:
    return b"".join(decoded(form, given))


def accepted_by_the_tool(form: Format, packed: bytes) -> bool:
    command = [form.tool, "--decompress", "--stdout", "--quiet"]
    return subprocess.run(command, input=packed, capture_output=True).returncode == 0


GOOD = {
    "zstd": (ZSTD, ["zstd", "-c"]),
    "zstd without its size": (ZSTD, ["zstd", "-c", "--no-content-size", "--no-check"]),
    "zstd with a long window": (ZSTD, ["zstd", "-c", "--long=27"]),
    "pzstd": (ZSTD, ["pzstd", "-c", "-p", "2"]),
    "gzip": (GZIP, ["gzip", "-c"]),
}


@pytest.mark.process
@pytest.mark.parametrize("size", [1, 7, 50_000])
@pytest.mark.parametrize("kind", GOOD)
def test_file_of_a_program_is_decompressed(kind: str, size: int) -> None:
    form, command = GOOD[kind]
    content = IMAGE if size > 7 else IMAGE[:20_000] + IMAGE[-50_000:]
    assert image(form, pieces(run(command, content), size)) == content


@pytest.mark.process
@pytest.mark.parametrize(
    ("form", "packed"),
    [
        (ZSTD, zstd.compress(IMAGE) + zstd.compress(b"more")),
        (ZSTD, SKIPPED + zstd.compress(IMAGE) + SKIPPED + zstd.compress(b"more") + SKIPPED),
        (GZIP, gzip.compress(IMAGE) + gzip.compress(b"") + gzip.compress(b"more")),
        (GZIP, gzip.compress(IMAGE) + gzip.compress(b"more") + bytes(100_000)),
    ],
    ids=["frames", "skippable frames", "members", "zeros behind members"],
)
def test_several_frames_and_members_are_one_image(form: Format, packed: bytes) -> None:
    assert image(form, pieces(packed)) == IMAGE + b"more"
    assert accepted_by_the_tool(form, packed)


def damaged(packed: bytes) -> bytes:
    changed = bytearray(packed)
    changed[len(packed) // 2] ^= 0x55
    return bytes(changed)


BAD = {
    "zst, cut": (ZSTD, zstd.compress(IMAGE)[:-1], "ends within a frame"),
    "zst, cut in its header": (ZSTD, zstd.compress(IMAGE) + SKIPPED[:2], "ends within a frame"),
    "zst, more behind": (ZSTD, zstd.compress(IMAGE) + b"other bytes", "follow its last frame"),
    "zst, zeros behind": (ZSTD, zstd.compress(IMAGE) + bytes(64), "follow its last frame"),
    "gz, cut": (GZIP, gzip.compress(IMAGE)[:-1], "ends within a member"),
    "gz, more behind": (GZIP, gzip.compress(IMAGE) + b"other bytes", "follow its last member"),
    "gz, behind zeros": (GZIP, gzip.compress(b"a") + bytes(9) + gzip.compress(b"b"), "follow"),
    "gz, damaged": (GZIP, damaged(gzip.compress(IMAGE)), "damaged"),
    "gz, wrong checksum": (GZIP, gzip.compress(IMAGE)[:-8] + bytes(8), "damaged .*check"),
}


@pytest.mark.process
@pytest.mark.parametrize("kind", BAD)
def test_bad_file_is_refused_as_the_tool_refuses_it(kind: str) -> None:
    form, packed, reason = BAD[kind]
    with pytest.raises(ImageUnusable, match=f"^decompression: .*{reason}"):
        image(form, pieces(packed))
    assert not accepted_by_the_tool(form, packed)


@pytest.mark.process
def test_damaged_zst_file_is_refused() -> None:
    packed = run(["zstd", "-c", "--check"], IMAGE)
    with pytest.raises(ImageUnusable, match="^decompression: "):
        image(ZSTD, pieces(damaged(packed)))


@pytest.mark.process
def test_window_that_takes_too_much_memory_is_refused() -> None:
    packed = run(["zstd", "-c", "--ultra", "--long=28", "--no-content-size"], IMAGE)
    with pytest.raises(ImageUnusable, match="window of more than 128 MiB.*--long' or less"):
        image(ZSTD, pieces(packed))
    assert not accepted_by_the_tool(ZSTD, packed)


# Prints by how many MiB the peak memory grew while half a GiB was decompressed. That is not
# ru_maxrss, which begins with what the process that started this one takes.
_BOMB = """
import sys
from fedimg.aws.write.stream_decoders import decoded
from fedimg.formats import FORMATS
form = next(each for each in FORMATS if each.suffix == sys.argv[1])
packed = sys.stdin.buffer.read()


def peak():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0])


before = peak()
total = 0
for part in decoded(form, [packed]):
    assert len(part) <= 2 << 20
    total += len(part)
    if total > 512 << 20:
        break
print((peak() - before) // 1024)
"""


@pytest.mark.process
@pytest.mark.parametrize(("form", "most"), [(ZSTD, 16), (GZIP, 8)])
def test_decompression_bomb_takes_little_memory(form: Format, most: int) -> None:
    """A piece of a few KiB that becomes a GiB is decompressed bit by bit."""
    zeros = bytes(MIB)
    if form is ZSTD:
        compressor = zstd.ZstdCompressor()
        packed = b"".join([*(compressor.compress(zeros) for _ in range(600)), compressor.flush()])
    else:
        packed = gzip.compress(bytes(600 * MIB), 1)
    command = [sys.executable, "-c", _BOMB, form.suffix]
    told = subprocess.run(command, input=packed, capture_output=True, check=True)
    assert int(told.stdout) < most


def test_format_is_that_of_the_longest_suffix() -> None:
    names = {f"NAME{each.suffix}": each for each in FORMATS}
    assert {name: format_of(name) for name in names} == names
    assert {without_suffix(name) for name in names} == {"NAME"}
    assert (format_of("NAME.qcow2"), without_suffix("NAME.qcow2")) == (None, "NAME.qcow2")
    assert FORMATS == (XZ, ZSTD, GZIP, PLAIN)


def test_plain_image_is_passed_on() -> None:
    assert image(PLAIN, pieces(IMAGE)) == IMAGE
