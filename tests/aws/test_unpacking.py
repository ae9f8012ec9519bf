import lzma
import random
import re
import subprocess
from collections.abc import Iterable

import pytest

from fedimg.aws.image_size import ImageUnusable
from fedimg.aws.unpacking import BLOCK, unpacked

NOISE = random.Random(5).randbytes(2 * BLOCK + 1000)


def pack(data: bytes, **options: int) -> bytes:
    return lzma.compress(data, **{"preset": 0, **options})


def pieces(packed: bytes, size: int = 100_000) -> Iterable[bytes]:
    return [packed[start : start + size] for start in range(0, len(packed), size)]


@pytest.mark.parametrize(
    "packed",
    [
        pack(NOISE),
        pack(NOISE[:7]) + pack(b"") + pack(NOISE[7:]),
        pack(NOISE[:BLOCK]) + bytes(8) + pack(NOISE[BLOCK:]) + bytes(4),
        pack(NOISE[:BLOCK]) + bytes(300_000) + pack(NOISE[BLOCK:]) + bytes(200_000),
    ],
    ids=["one stream", "three streams", "padding", "much padding"],
)
@pytest.mark.parametrize("size", [4999, 10_000_000])
def test_blocks_are_the_images_the_last_one_filled_up(packed: bytes, size: int) -> None:
    blocks = list(unpacked(pieces(packed, size), len(NOISE)))
    assert [len(block) for block in blocks] == [BLOCK] * 3
    assert b"".join(blocks) == NOISE + bytes(BLOCK - 1000)


def test_image_of_whole_blocks_is_not_filled_up() -> None:
    assert list(unpacked([pack(NOISE[:BLOCK])], BLOCK)) == [NOISE[:BLOCK]]


def test_several_xz_blocks() -> None:
    command = ["xz", "-0", "-T2", "--block-size=100000", "--stdout"]
    packed = subprocess.run(command, input=NOISE, capture_output=True, check=True).stdout
    assert b"".join(unpacked(pieces(packed), len(NOISE)))[: len(NOISE)] == NOISE


def damaged(packed: bytes) -> bytes:
    middle = len(packed) // 2
    return packed[:middle] + bytes(64) + packed[middle + 64 :]


@pytest.mark.parametrize(
    ("packed", "size", "words"),
    [
        (pack(NOISE), len(NOISE) + 1, f"{len(NOISE)} bytes came out in place of {len(NOISE) + 1}"),
        (pack(NOISE), len(NOISE) - 1, f"more than the {len(NOISE) - 1} bytes .* promised"),
        (pack(NOISE) + pack(b"more"), len(NOISE), "there is more than"),
        (pack(NOISE)[:-1], len(NOISE), "ends in the middle of a stream"),
        (damaged(pack(NOISE)), len(NOISE), "Corrupt input data"),
        (pack(NOISE) + bytes(3), len(NOISE), "missing between two streams"),
        (pack(NOISE) + b"junk" * 9, len(NOISE), "format not supported"),
        (pack(NOISE, preset=lzma.PRESET_DEFAULT) + b"", 1, "there is more than"),
    ],
)
def test_file_that_is_not_what_its_index_promised(packed: bytes, size: int, words: str) -> None:
    with pytest.raises(ImageUnusable, match=f"decompression: .*{words}"):
        list(unpacked(pieces(packed), size))


def test_last_block_is_not_given_before_the_file_has_ended_well() -> None:
    given: list[bytes] = []
    with pytest.raises(ImageUnusable, match="ends in the middle"):
        given.extend(unpacked([pack(NOISE)[:-4]], len(NOISE)))
    assert len(given) == 2


def test_file_that_wants_gigabytes_of_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30, "preset": 0}]
    packed = lzma.compress(b"image", filters=filters)
    with pytest.raises(ImageUnusable, match=re.escape("Memory usage limit exceeded")):
        list(unpacked([packed], 5))
