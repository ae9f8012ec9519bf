"""Where the blocks of an .xz file are, by the indexes at the ends of its streams."""

from __future__ import annotations

import io
import re
from typing import BinaryIO, NamedTuple

from xz import XZError
from xz.common import crc32, decode_mbi, parse_xz_footer, parse_xz_header, round_up

from fedimg.aws.write import xz_dictionary

#: Koji's largest images have some hundreds. Each takes a fifth of a kilobyte of memory.
MOST_BLOCKS = 128 * 1024

# A number has nine bytes at most, all but the last above 127 (section 1.2).
_LONGEST_NUMBER = 9
_NO_NUMBER = re.compile(rb"[\x80-\xff]{9}")

#: In bytes, of a stream's header and of its footer (The .xz File Format, section 2.1).
_HEADER = _FOOTER = 12
#: In bytes: what all parts of a file are multiples of, and stream padding is made of (section 2.2).
_UNIT = 4
#: In bytes: the CRC32 that ends an index (section 4.4).
_CHECK = 4
#: In bytes: what of stream padding is looked at at once.
_PADDING = 256 * 1024


class TooManyBlocks(XZError):
    """A file that may be sound, and has more blocks than are taken."""


class DictionaryTooLarge(XZError):
    """A file that may be sound, and takes more memory to unpack than there is for one."""


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

    Raises XZError when the file is not whole, TooManyBlocks when it has more than MOST_BLOCKS, and
    DictionaryTooLarge when that of a stream's blocks is, to judge by one of them.
    """
    found: list[Block] = []
    end = file.seek(0, io.SEEK_END)
    while end:
        if end % _UNIT:
            raise XZError("file: invalid size")
        end = _before_padding(file, end)
        if end:
            # Streams are found last to first, and so are their blocks.
            end = _stream(file, end, found)
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
    records = _records(_bytes(file, index, index_size))
    if len(found) + len(records) > MOST_BLOCKS:
        raise TooManyBlocks(f"more than {MOST_BLOCKS} blocks")
    start = index
    for packed, size in reversed(records):
        start -= round_up(packed)
        found.append(Block(start, packed, 0, size, check))
    begin = start - _HEADER
    if parse_xz_header(_bytes(file, begin, _HEADER)) != check:
        raise XZError("stream: inconsistent check value")
    if records:
        _check_dictionary(file, max(found[-len(records) :], key=lambda block: block.size))
    return begin


def _before_padding(file: BinaryIO, end: int) -> int:
    """Return where the stream ends, 0 for none, behind which there is padding up to `end`."""
    # Most often there is none.
    size = _UNIT
    while end:
        start = max(end - size, 0)
        if rest := _bytes(file, start, end - start).rstrip(b"\0"):
            return start + round_up(len(rest))
        end, size = start, _PADDING
    return 0


def _records(index: bytes) -> list[tuple[int, int]]:
    """Return what an index says of its blocks, in order: the size packed, and unpacked.

    python-xz takes an index for damaged that has a block of nothing, which the format allows.
    """
    end = len(index) - _CHECK
    if end < _CHECK or index[0] or crc32(index[:end]) != index[end:]:
        raise XZError("index crc32")
    if _NO_NUMBER.search(index, 0, end):
        raise XZError("index: a number that is too long")
    numbers = []
    at = 1
    used, count = decode_mbi(index[at:end][:_LONGEST_NUMBER])
    at += used
    if count > end:
        raise XZError("index: more blocks than it has room for")
    for _ in range(2 * count):
        used, number = decode_mbi(index[at : min(at + _LONGEST_NUMBER, end)])
        at += used
        numbers.append(number)
    if any(index[at:end]) or end - at >= _UNIT:
        raise XZError("index: no end")
    if not all(numbers[::2]):
        raise XZError("index: a block that has no bytes")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _check_dictionary(file: BinaryIO, block: Block) -> None:
    if block.size <= xz_dictionary.LARGEST:
        return
    header = _bytes(file, block.start, xz_dictionary.LONGEST_HEADER)
    asked = xz_dictionary.asked(header)
    if asked > xz_dictionary.LARGEST:
        raise DictionaryTooLarge(f"a dictionary of {asked // xz_dictionary.MIB} MiB")


def _bytes(file: BinaryIO, start: int, size: int) -> bytes:
    if start < 0:
        raise XZError("file: its beginning is missing")
    file.seek(start)
    return file.read(size)
