"""Locate the blocks of an .xz file, by the indexes at the ends of its streams."""

from __future__ import annotations

import io
import re
from typing import BinaryIO, NamedTuple

from xz import XZError
from xz.common import crc32, decode_mbi, parse_xz_footer, parse_xz_header, round_up

from fedimg.aws.write import xz_dictionary

#: Koji's largest images have some hundreds. Each takes 200 bytes of memory.
MOST_BLOCKS = 128 * 1024

# A number has at most nine bytes, all but the last above 127 (section 1.2).
_LONGEST_NUMBER = 9
_NO_NUMBER = re.compile(rb"[\x80-\xff]{9}")

#: In bytes, of a stream's header and of its footer (The .xz File Format, section 2.1).
_HEADER = _FOOTER = 12
#: In bytes: the unit of all parts of a file and of stream padding (section 2.2).
_UNIT = 4
#: In bytes: the CRC32 that ends an index (section 4.4).
_CHECK = 4
#: In bytes: how much stream padding is read at once.
_PADDING = 256 * 1024


class TooManyBlocks(XZError):
    """The file has more blocks than the limit; it may be sound."""


class DictionaryTooLarge(XZError):
    """Decompressing the file takes more memory than the limit; it may be sound."""


class Block(NamedTuple):
    """One block, with offsets and sizes in bytes.

    `start` is its offset in the file and `packed` its compressed size, without the padding; `at` is
    the offset of its data in the image and `size` their size. `check` is the type of the check at
    its end (section 2.1.1.2).
    """

    start: int
    packed: int
    at: int
    size: int
    check: int

    @property
    def end(self) -> int:
        """Return the offset of the end of the block in the file."""
        return self.start + round_up(self.packed)


def read(file: BinaryIO) -> list[Block]:
    """Return the blocks of a file, in order; a file without data has none.

    Raises XZError when the file is not complete, TooManyBlocks when it has more than MOST_BLOCKS,
    and DictionaryTooLarge when the largest block of a stream needs too large a dictionary.
    """
    blocks: list[Block] = []
    end = file.seek(0, io.SEEK_END)
    while end:
        if end % _UNIT:
            raise XZError("file: invalid size")
        end = _before_padding(file, end)
        if end:
            # Streams and their blocks are read last to first.
            end = _stream(file, end, blocks)
    at = 0
    placed = []
    for block in reversed(blocks):
        placed.append(block._replace(at=at))
        at += block.size
    return placed


def _stream(file: BinaryIO, end: int, blocks: list[Block]) -> int:
    """Add the blocks of the stream that ends at `end`, last to first; return where the stream
    begins.
    """
    check, index_size = parse_xz_footer(_bytes(file, end - _FOOTER, _FOOTER))
    index = end - _FOOTER - index_size
    records = _records(_bytes(file, index, index_size))
    if len(blocks) + len(records) > MOST_BLOCKS:
        raise TooManyBlocks(f"more than {MOST_BLOCKS} blocks")
    start = index
    for packed, size in reversed(records):
        start -= round_up(packed)
        blocks.append(Block(start, packed, 0, size, check))
    begin = start - _HEADER
    if parse_xz_header(_bytes(file, begin, _HEADER)) != check:
        raise XZError("stream: inconsistent check value")
    if records:
        _check_dictionary(file, max(blocks[-len(records) :], key=lambda block: block.size))
    return begin


def _before_padding(file: BinaryIO, end: int) -> int:
    """Return where the last stream before the padding up to `end` ends; 0 for no stream."""
    # Most files have no padding.
    size = _UNIT
    while end:
        start = max(end - size, 0)
        if rest := _bytes(file, start, end - start).rstrip(b"\0"):
            return start + round_up(len(rest))
        end, size = start, _PADDING
    return 0


def _records(index: bytes) -> list[tuple[int, int]]:
    """Return the entries of an index, in order: the compressed and the uncompressed size.

    python-xz rejects an index with an empty block, which the format allows.
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
        raise XZError("index: more blocks than fit into it")
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
    dictionary = xz_dictionary.dictionary_size(header)
    if dictionary > xz_dictionary.LARGEST:
        raise DictionaryTooLarge(f"a dictionary of {dictionary // xz_dictionary.MIB} MiB")


def _bytes(file: BinaryIO, start: int, size: int) -> bytes:
    if start < 0:
        raise XZError("file: its beginning is missing")
    file.seek(start)
    return file.read(size)
