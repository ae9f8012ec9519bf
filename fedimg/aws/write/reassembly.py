"""An image put together again, block by block of EBS, of parts in any order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from fedimg.aws.write.blocks import BLOCK
from fedimg.aws.write.thread_group import MemoryBudget, ThreadGroup


class Reassembly:
    """Puts an image of `size` bytes together, of parts in any order and from many threads.

    At most `most` blocks are on their way, two for each thread among them that are not whole, each
    in a buffer that is given back: of what is made in one thread and let go in another, the
    allocator keeps some for each thread.
    """

    def __init__(self, threads: ThreadGroup, size: int, most: int) -> None:
        self._size = size
        self._room = MemoryBudget(threads, most)
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
