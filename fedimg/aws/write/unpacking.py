"""The blocks of an .xz file, as it comes piece by piece, each unpacked by itself."""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from xz.common import create_xz_header, create_xz_index_footer

from fedimg.aws.write import xz_dictionary
from fedimg.aws.write.image_size import ImageUnusable
from fedimg.aws.write.thread_group import Bytes
from fedimg.aws.write.xz_blocks import Block

#: In bytes: what liblzma takes for the largest dictionary.
MEMORY = xz_dictionary.LARGEST + 1024 * 1024
# In bytes. Behind each part a thread waits for Python's lock, which others hold for a millisecond.
_PART = 2 * 1024 * 1024


class Cut:
    """Deals a file, piece by piece, to its blocks, each of which has a pipe that `begin` makes."""

    def __init__(self, blocks: Iterable[Block], begin: Callable[[Block], Bytes]) -> None:
        self._blocks = iter(blocks)
        self._block = next(self._blocks, None)
        self._begin = begin
        self._to: Bytes | None = None
        self._at = 0

    def give(self, piece: bytes) -> None:
        """The file's next bytes. What is between blocks and behind them, the index has told."""
        start, end = self._at, self._at + len(piece)
        while (block := self._block) and block.start < end:
            self._to = self._to or self._begin(block)
            self._to.put(piece[max(block.start - start, 0) : block.end - start])
            if block.end > end:
                break
            self._to.close()
            self._to = None
            self._block = next(self._blocks, None)
        self._at = end


def unpacked(block: Block, pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """What is packed in one block, part by part: place in the image and bytes.

    Every piece is taken. Raises ImageUnusable when the block is damaged, or is not as long as the
    file's index promised; parts of it may have been given by then.
    """
    # As a file of its own, liblzma checks it, and the index's word on it.
    begin = create_xz_header(block.check)
    end = create_xz_index_footer(block.check, [(block.packed, block.size)])
    given = chain((begin,), _modest(pieces, block.size), (end,))
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MEMORY)
    at, most = block.at, block.at + block.size
    while not decompressor.eof:
        piece = next(given, b"") if decompressor.needs_input else b""
        if decompressor.needs_input and not piece:
            break
        try:
            part = decompressor.decompress(piece, _PART)
        except lzma.LZMAError as error:
            raise ImageUnusable(f"decompression: {error}") from error
        if at + len(part) > most:
            break
        if part:
            yield at, part
        at += len(part)
    if at != most or not decompressor.eof or decompressor.unused_data or next(given, b""):
        raise ImageUnusable(
            f"decompression: the block at byte {block.start} does not hold the {block.size} bytes "
            "that the file's index lists"
        )


def _modest(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield a block, whose header asks for no more memory than its `size` unpacked bytes fill."""
    rest = iter(pieces)
    begin = b""
    for piece in rest:
        begin += piece
        if begin and len(begin) >= xz_dictionary.header_length(begin[0]):
            break
    if begin:
        length = xz_dictionary.header_length(begin[0])
        yield xz_dictionary.lowered(begin[:length], size) + begin[length:]
    yield from rest
