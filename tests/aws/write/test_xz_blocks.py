import io
import lzma
import random
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xz import XZError
from xz.common import crc32, create_xz_header, create_xz_index_footer, parse_xz_index

from fedimg.aws.write import xz_blocks
from fedimg.aws.write.xz_blocks import Block, DictionaryTooLarge, TooManyBlocks
from tests.aws.xz_files import with_a_block_of_nothing

pytestmark = pytest.mark.process

NOISE = random.Random(9).randbytes(250_000)


def pack(data: bytes, *options: str) -> bytes:
    command = ["xz", "-0", "--stdout", *options]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def read(packed: bytes) -> list[Block]:
    return xz_blocks.read(io.BytesIO(packed))


def test_plain_file_has_one_block() -> None:
    (block,) = read(pack(NOISE))
    assert (block.start, block.at, block.size) == (12, 0, len(NOISE))
    assert block.check == lzma.CHECK_CRC64


def test_blocks_are_contiguous_in_file_and_image() -> None:
    packed = pack(NOISE, "-T2", "--block-size=100000")
    blocks = read(packed)
    assert [block.at for block in blocks] == [0, 100_000, 200_000]
    assert [block.size for block in blocks] == [100_000, 100_000, 50_000]
    assert [block.start for block in blocks[1:]] == [block.end for block in blocks[:-1]]
    assert blocks[-1].end < len(packed)


def test_blocks_are_where_xz_itself_sees_them(tmp_path: Path) -> None:
    streams = [pack(NOISE, "-T2", "--block-size=100000"), pack(b"end", "--check=sha256")]
    file = tmp_path / "image.xz"
    file.write_bytes(streams[0] + bytes(16) + streams[1] + bytes(8))
    told = subprocess.run(
        ["xz", "--list", "--robot", "-vv", file], capture_output=True, text=True, check=True
    ).stdout
    # Behind three numbers: offset in the file and in the image, size in both.
    rows = [line.split("\t") for line in told.splitlines() if line.startswith("block\t")]
    seen = [tuple(int(row[column]) for column in (4, 6, 5, 7)) for row in rows]
    blocks = read(file.read_bytes())
    assert [(b.start, b.end - b.start, b.at, b.size) for b in blocks] == seen
    assert len(blocks) == 4


def test_file_without_blocks_is_read() -> None:
    assert read(b"") == []
    assert read(pack(b"")) == []


def test_file_with_too_many_blocks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xz_blocks, "MOST_BLOCKS", 3)
    packed = pack(NOISE, "-T2", "--block-size=100000")
    assert len(read(packed)) == 3
    with pytest.raises(TooManyBlocks, match="more than 3 blocks"):
        read(packed + pack(b"end"))


@pytest.mark.parametrize("lost", [1, 4, 12, 40])
def test_incomplete_file_is_refused(lost: int) -> None:
    with pytest.raises(XZError):
        read(pack(NOISE)[:-lost])


def test_file_without_its_beginning_is_refused() -> None:
    packed = pack(NOISE)
    with pytest.raises(XZError):
        read(packed[1000:])


def test_number_without_an_end_is_refused() -> None:
    """Computing its value would take seconds, and printing it minutes."""
    index = b"\0\1" + b"\xff" * 200_000 + b"\1\1"
    index += bytes(-len(index) % 4)
    index += crc32(index)
    fields = struct.pack("<IBB", len(index) // 4 - 1, 0, 4)
    with pytest.raises(XZError, match="too long"):
        read(create_xz_header(4) + index + crc32(fields) + fields + b"YZ")


def test_largest_sizes_are_read() -> None:
    end = create_xz_index_footer(4, [(5, 2**63 - 1)])
    (block,) = read(create_xz_header(4) + bytes(8) + end)
    assert block.size == 2**63 - 1


def test_empty_block_is_read_as_by_xz(tmp_path: Path) -> None:
    file = tmp_path / "image.xz"
    file.write_bytes(with_a_block_of_nothing(b"image"))
    subprocess.run(["xz", "--test", file], check=True)
    first, second = read(file.read_bytes())
    assert (first.size, second.size, second.at, second.start) == (5, 0, 5, first.end)


@given(
    st.lists(st.tuples(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1)), max_size=50),
    st.integers(0, 200),
    st.integers(0, 7),
)
def test_index_is_read_as_python_xz_reads_it(
    records: list[tuple[int, int]], at: int, bit: int
) -> None:
    """Test an index, and the same with one bit changed and its checksum corrected."""
    index = create_xz_index_footer(4, records)[:-12]
    assert xz_blocks._records(index) == parse_xz_index(index) == records
    body = bytearray(index[:-4])
    body[at % len(body)] ^= 1 << bit
    changed = bytes(body) + crc32(bytes(body))
    try:
        ours: object = xz_blocks._records(changed)
    except XZError:
        ours = None
    try:
        theirs: object = parse_xz_index(changed)
    except XZError:
        theirs = None
    # It refuses blocks of nothing, and takes numbers of any length.
    assert ours == theirs or theirs is None or ours is None


@pytest.mark.parametrize("size", [4, 8, 262_144, 262_148, 7 * 2**20])
def test_padding_of_any_length_is_read_past(size: int) -> None:
    packed = pack(b"image")
    blocks = read(packed)
    assert read(packed + bytes(size)) == blocks
    between = read(packed + bytes(size) + packed)
    assert [block.start for block in between] == [12, len(packed) + size + 12]


def test_padding_that_is_no_multiple_of_four_is_refused() -> None:
    with pytest.raises(XZError):
        read(pack(b"image") + bytes(6))


def test_file_of_padding_only_has_no_blocks() -> None:
    assert read(bytes(600_000)) == []


def test_dictionary_counts_only_where_a_block_may_fill_it() -> None:
    wide = "--lzma2=preset=0,dict=128MiB"
    image = bytes(97 * 2**20)
    assert len(read(pack(image, wide, "-T2", "--block-size=50MiB"))) == 2
    with pytest.raises(DictionaryTooLarge, match="a dictionary of 128 MiB"):
        read(pack(image, wide, "-T1"))
