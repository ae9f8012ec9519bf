import io
import lzma
import random
import struct
import subprocess
from pathlib import Path

import pytest
from xz import XZError
from xz.common import crc32, create_xz_header, create_xz_index_footer

from fedimg.aws import xz_blocks
from fedimg.aws.xz_blocks import Block, TooManyBlocks

NOISE = random.Random(9).randbytes(250_000)


def pack(data: bytes, *options: str) -> bytes:
    command = ["xz", "-0", "--stdout", *options]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def read(packed: bytes) -> list[Block]:
    return xz_blocks.read(io.BytesIO(packed))


def test_block_of_a_plain_file() -> None:
    (block,) = read(pack(NOISE))
    assert (block.start, block.at, block.size) == (12, 0, len(NOISE))
    assert block.check == lzma.CHECK_CRC64


def test_blocks_lie_one_behind_the_other_in_the_file_and_in_the_image() -> None:
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


def test_file_of_no_blocks() -> None:
    assert read(b"") == []
    assert read(pack(b"")) == []


def test_file_of_too_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xz_blocks, "MOST_BLOCKS", 3)
    packed = pack(NOISE, "-T2", "--block-size=100000")
    assert len(read(packed)) == 3
    with pytest.raises(TooManyBlocks, match="more than 3 blocks"):
        read(packed + pack(b"end"))


@pytest.mark.parametrize("lost", [1, 4, 12, 40])
def test_file_that_is_not_whole(lost: int) -> None:
    with pytest.raises(XZError):
        read(pack(NOISE)[:-lost])


def test_file_whose_beginning_is_missing() -> None:
    packed = pack(NOISE)
    with pytest.raises(XZError):
        read(packed[1000:])


def test_number_that_has_no_end_is_not_read() -> None:
    """Its value would take seconds to compute, and be printed in minutes."""
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
