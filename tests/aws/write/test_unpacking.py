"""Blocks of .xz files are unpacked.

Follows fedimg/aws/write/xz_dictionary.py.
"""

import io
import lzma
import random
import re
import subprocess
import threading
from collections.abc import Iterable, Sequence
from itertools import chain

import pytest

from fedimg.aws.write import unpacking, xz_blocks
from fedimg.aws.write.blocks import BLOCK
from fedimg.aws.write.image_errors import ImageUnusable
from fedimg.aws.write.reassembly import Reassembly
from fedimg.aws.write.thread_group import Bytes, MemoryBudget, ThreadGroup
from fedimg.aws.write.unpacking import Cut, unpacked
from fedimg.aws.write.xz_blocks import Block
from tests.aws.xz_files import with_a_block_of_nothing

NOISE = random.Random(5).randbytes(2 * BLOCK + 1000)
#: Nothing here takes so long, on a busy machine neither.
NEVER_MIND = 60.0
#: Fewer than the image's blocks, so that their buffers are used again.
ON_THEIR_WAY = 2


def pack(data: bytes, **options: int) -> bytes:
    return lzma.compress(data, **{"preset": 0, **options})


def pack_in_blocks(data: bytes, size: int) -> bytes:
    command = ["xz", "-0", "-T2", f"--block-size={size}", "--stdout"]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def pieces(packed: bytes, size: int = 100_000) -> Sequence[bytes]:
    return [packed[start : start + size] for start in range(0, len(packed), size)]


def layout(packed: bytes) -> list[Block]:
    return xz_blocks.read(io.BytesIO(packed))


def cut(packed: bytes, blocks: Sequence[Block], size: int) -> list[list[bytes]]:
    """Return the bytes that each block gets of a file in pieces of this size."""
    with ThreadGroup(threading.Event(), limit=NEVER_MIND) as threads:
        room = MemoryBudget(threads, len(packed))
        dealt: list[Bytes] = []

        def begin(block: Block) -> Bytes:
            dealt.append(Bytes(threads, room))
            return dealt[-1]

        dealer = Cut(blocks, begin)
        for piece in pieces(packed, size):
            dealer.give(piece)
        return [list(each) for each in dealt]


def image(packed: bytes, size: int) -> dict[int, bytes]:
    """Return the image's blocks, by number, of a file in pieces of this size."""
    blocks = layout(packed)
    dealt = zip(blocks, cut(packed, blocks, size), strict=True)
    return gather(chain.from_iterable(unpacked(block, given) for block, given in dealt), blocks)


def gather(parts: Iterable[tuple[int, bytes]], blocks: Sequence[Block]) -> dict[int, bytes]:
    """Return the image's blocks, by number, of parts of its file's blocks."""
    found: dict[int, bytes] = {}
    with ThreadGroup(threading.Event(), limit=NEVER_MIND) as threads:
        gathered = Reassembly(threads, sum(block.size for block in blocks), ON_THEIR_WAY)
        for part in parts:
            for index, block in gathered.add(*part):
                assert index not in found
                found[index] = bytes(block)
                gathered.give_back(block)
    return found


@pytest.mark.parametrize(
    "packed",
    [
        pack(NOISE),
        pack(NOISE[:7]) + pack(b"") + pack(NOISE[7:]),
        pack(NOISE[:BLOCK]) + bytes(8) + pack(NOISE[BLOCK:]) + bytes(4),
        pack(NOISE[:BLOCK]) + bytes(300_000) + pack(NOISE[BLOCK:]) + bytes(200_000),
        pack_in_blocks(NOISE, 100_000),
        pack(NOISE[:100], check=lzma.CHECK_NONE) + pack(NOISE[100:], check=lzma.CHECK_SHA256),
    ],
    ids=["one stream", "three streams", "padding", "much padding", "blocks", "kinds of check"],
)
@pytest.mark.parametrize("size", [4999, 10_000_000])
def test_last_block_is_padded(packed: bytes, size: int) -> None:
    found = image(packed, size)
    assert sorted(found) == [0, 1, 2]
    assert b"".join(found[index] for index in range(3)) == NOISE + bytes(BLOCK - 1000)


def test_image_of_full_blocks_is_not_padded() -> None:
    assert image(pack(NOISE[:BLOCK]), 1000) == {0: NOISE[:BLOCK]}


@pytest.mark.process
@pytest.mark.parametrize("size", [1, 2, 3, 7, 12, 13])
def test_pieces_of_any_size_are_accepted(size: int) -> None:
    packed = pack(b"im") + bytes(4) + pack_in_blocks(b"age" * 10, 11)
    assert image(packed, size) == {0: (b"im" + b"age" * 10).ljust(BLOCK, b"\0")}


@pytest.mark.process
def test_blocks_of_the_file_may_be_unpacked_in_any_order() -> None:
    packed = pack_in_blocks(NOISE, 300_000)
    blocks = layout(packed)
    parts = [
        part
        for block in reversed(blocks)
        for part in unpacked(block, pieces(packed[block.start : block.end]))
    ]
    found = gather(parts, blocks)
    assert b"".join(found[index] for index in range(3))[: len(NOISE)] == NOISE


def unpack(block: Block, given: Iterable[bytes]) -> bytes:
    return b"".join(part for _, part in unpacked(block, given))


def damaged(packed: bytes, at: int) -> bytes:
    return packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]


PACKED = pack(NOISE)
(ONE,) = layout(PACKED)
THE_BLOCK = PACKED[ONE.start : ONE.end]


def test_block_is_what_was_packed() -> None:
    assert unpack(ONE, [THE_BLOCK]) == NOISE


@pytest.mark.parametrize("at", [0, 1, 3, 11, 500_000, len(THE_BLOCK) - 9, len(THE_BLOCK) - 1])
def test_damaged_block_is_refused(at: int) -> None:
    with pytest.raises(ImageUnusable, match="decompression: "):
        unpack(ONE, pieces(damaged(THE_BLOCK, at)))


@pytest.mark.parametrize(
    ("change", "given"),
    [
        ({"size": ONE.size + 1}, THE_BLOCK),
        ({"size": ONE.size - 1}, THE_BLOCK),
        ({"size": 1}, THE_BLOCK),
        ({"packed": ONE.packed - 1}, THE_BLOCK),
        ({}, THE_BLOCK[:-1]),
        ({}, THE_BLOCK[:100]),
        ({}, b""),
        ({}, THE_BLOCK + THE_BLOCK),
        ({}, THE_BLOCK + b"junk"),
        # A whole stream, with an index of its own, in the place of a block.
        ({}, PACKED[ONE.start :]),
        ({"check": 4 if ONE.check != 4 else 1}, pack(NOISE, check=lzma.CHECK_NONE)[12:-28]),
    ],
)
def test_block_that_differs_from_the_index_is_refused(change: dict[str, int], given: bytes) -> None:
    with pytest.raises(ImageUnusable, match="decompression: "):
        unpack(ONE._replace(**change), pieces(given))


def test_block_yields_no_more_than_the_index_lists() -> None:
    given: list[tuple[int, bytes]] = []
    with pytest.raises(ImageUnusable):
        given.extend(unpacked(ONE._replace(size=BLOCK), [THE_BLOCK]))
    assert sum(len(part) for _, part in given) <= BLOCK


def wide(data: bytes, dictionary: int) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": dictionary, "preset": 0}]
    return lzma.compress(data, filters=filters)


@pytest.mark.parametrize("size", [1013, 1_000_000])
@pytest.mark.parametrize("dictionary", [96 << 20, 128 << 20, 1 << 30])
def test_dictionary_that_the_image_cannot_fill_takes_no_memory(dictionary: int, size: int) -> None:
    """The decoder refuses as much as it would allocate."""
    found = image(wide(NOISE, dictionary), size)
    assert b"".join(found[index] for index in range(3))[: len(NOISE)] == NOISE


def test_header_that_comes_byte_by_byte_is_read() -> None:
    assert image(wide(b"image", 1 << 30), 1) == {0: b"image".ljust(BLOCK, b"\0")}


def test_other_filters_of_the_header_are_kept() -> None:
    filters = [
        {"id": lzma.FILTER_DELTA, "dist": 4},
        {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30, "preset": 0},
    ]
    assert image(lzma.compress(NOISE[:BLOCK], filters=filters), 999) == {0: NOISE[:BLOCK]}


def test_block_that_fills_a_larger_dictionary_than_is_taken_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Use a small limit: 1 MiB of dictionary for an image that would fill it."""
    monkeypatch.setattr(unpacking, "MEMORY", BLOCK)
    with pytest.raises(ImageUnusable, match=re.escape("Memory usage limit exceeded")):
        image(wide(NOISE, 1 << 30), 1000)


def test_empty_block_among_others_is_accepted() -> None:
    assert image(with_a_block_of_nothing(b"image"), 10) == {0: b"image".ljust(BLOCK, b"\0")}
