"""Where the blocks of an .xz file are, by the indexes at the ends of its streams."""

from __future__ import annotations

import io
import re
from typing import BinaryIO, NamedTuple

from xz import XZError
from xz.common import parse_xz_footer, parse_xz_header, parse_xz_index, round_up

#: Koji's largest images have some hundreds. Each takes a fifth of a kilobyte of memory.
MOST_BLOCKS = 128 * 1024

# A number has nine bytes at most, all but the last above 127 (section 1.2).
_NO_NUMBER = re.compile(rb"[\x80-\xff]{9}")

#: In bytes, of a stream's header and of its footer (The .xz File Format, section 2.1).
_HEADER = _FOOTER = 12
#: In bytes: what all parts of a file are multiples of, and stream padding is made of (section 2.2).
_UNIT = 4
#: In bytes: the CRC32 that ends an index (section 4.4).
_CHECK = 4


class TooManyBlocks(XZError):
    """A file that may be sound, and has more blocks than are taken."""


class Block(NamedTuple):
    """One block. `start` is its place in the file and `packed` its size there, without what fills
    it up to whole units; `at` and `size` are those of what is packed in it. All in bytes. `check`
    is the number of the check at its end (section 2.1.1.2).
    """

    start: int
    packed: int
    at: int
    size: int
    check: int

    @property
    def end(self) -> int:
        """Where the block ends in the file."""
        return self.start + round_up(self.packed)


def read(file: BinaryIO) -> list[Block]:
    """The blocks of a file, in order; none are in one of nothing.

    Raises XZError when the file is not whole, and TooManyBlocks when it has more than MOST_BLOCKS.
    """
    found: list[Block] = []
    end = file.seek(0, io.SEEK_END)
    while end:
        if end % _UNIT:
            raise XZError("file: invalid size")
        if any(_bytes(file, end - _UNIT, _UNIT)):
            # Streams are found last to first, and so are their blocks.
            end = _stream(file, end, found)
        else:
            end -= _UNIT
    at = 0
    placed = []
    for block in reversed(found):
        placed.append(block._replace(at=at))
        at += block.size
    return placed


def _stream(file: BinaryIO, end: int, found: list[Block]) -> int:
    """Add the blocks of the stream that ends there, last to first; where the stream begins."""
    check, index_size = parse_xz_footer(_bytes(file, end - _FOOTER, _FOOTER))
    index = end - _FOOTER - index_size
    packed_records = _bytes(file, index, index_size)
    if _NO_NUMBER.search(packed_records, 0, index_size - _CHECK):
        raise XZError("index: a number that is too long")
    records = parse_xz_index(packed_records)
    if len(found) + len(records) > MOST_BLOCKS:
        raise TooManyBlocks(f"more than {MOST_BLOCKS} blocks")
    start = index
    for packed, size in reversed(records):
        start -= round_up(packed)
        found.append(Block(start, packed, 0, size, check))
    begin = start - _HEADER
    if parse_xz_header(_bytes(file, begin, _HEADER)) != check:
        raise XZError("stream: inconsistent check value")
    return begin


def _bytes(file: BinaryIO, start: int, size: int) -> bytes:
    if start < 0:
        raise XZError("file: its beginning is missing")
    file.seek(start)
    return file.read(size)
