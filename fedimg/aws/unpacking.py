"""The blocks of an .xz file, each by itself, into the blocks of the image in it."""

from __future__ import annotations

import lzma
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from xz.common import create_xz_header, create_xz_index_footer

from fedimg.aws.crew import Bytes, Crew, Room
from fedimg.aws.image_size import ImageUnusable
from fedimg.aws.xz_blocks import Block

#: In bytes; the only block size that EBS has.
BLOCK = 512 * 1024
#: In bytes: `xz -9` needs 65 MiB, and nothing that Koji makes needs more.
MEMORY = 96 * 1024 * 1024
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
    given = chain((begin,), pieces, (end,))
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
            f"decompression: the block at {block.start} does not hold the {block.size} bytes that "
            "the file's index promised"
        )


class Gathered:
    """Puts an image of `size` bytes together, of parts in any order and from many threads.

    At most `most` blocks are on their way, two for each thread among them that are not whole, each
    in a buffer that is given back: of what is made in one thread and let go in another, the
    allocator keeps some for each thread.
    """

    def __init__(self, crew: Crew, size: int, most: int) -> None:
        self._size = size
        self._room = Room(crew, most)
        self._free: deque[bytearray] = deque()
        self._lock = threading.Lock()
        # Of blocks that are not whole: what there is, and how many bytes are missing.
        self._begun: dict[int, tuple[bytearray, int]] = {}

    def add(self, at: int, part: bytes) -> Iterator[tuple[int, bytearray]]:
        """The numbers and the blocks that a part makes whole; the last is filled up with zeros.

        Waits while too many are on their way.
        """
        rest = memoryview(part)
        while rest:
            index, first = divmod(at, BLOCK)
            some = rest[: BLOCK - first]
            if block := self._put(index, first, some):
                yield index, block
            at += len(some)
            rest = rest[len(some) :]

    def give_back(self, block: bytearray) -> None:
        """A block has been sent, and its buffer may take another."""
        self._free.append(block)
        self._room.give_back(1)

    def _put(self, index: int, first: int, part: memoryview) -> bytearray | None:
        with self._lock:
            begun = index in self._begun
            block, missing = self._begun.pop(index) if begun else self._begin(index)
            memoryview(block)[first : first + len(part)] = part
            missing -= len(part)
            if missing:
                self._begun[index] = (block, missing)
                return None
        return block

    def _begin(self, index: int) -> tuple[bytearray, int]:
        self._room.take(1)
        block = self._free.pop() if self._free else bytearray(BLOCK)
        wanted = min(BLOCK, self._size - index * BLOCK)
        block[wanted:] = bytes(BLOCK - wanted)
        return block, wanted
