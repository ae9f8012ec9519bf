"""Reassemble an image into EBS blocks, from parts in any order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from fedimg.aws.write.blocks import BLOCK
from fedimg.aws.write.thread_group import MemoryBudget, ThreadGroup


class Reassembly:
    """Reassembles an image of `size` bytes from parts in any order and from many threads.

    At most `most` blocks exist at a time, of which each thread may have two incomplete ones. Their
    buffers are reused, since the allocator would keep piece for each thread.
    """

    def __init__(self, threads: ThreadGroup, size: int, most: int) -> None:
        self._size = size
        self._budget = MemoryBudget(threads, most)
        self._free: deque[bytearray] = deque()
        self._lock = threading.Lock()
        # Incomplete blocks, each with the number of missing bytes.
        self._incomplete: dict[int, tuple[bytearray, int]] = {}

    def add(self, at: int, part: bytes) -> Iterator[tuple[int, bytearray]]:
        """Yield the numbers and the blocks that a part completes; the last block is padded with
        zeros.

        Waits while too many blocks exist.
        """
        rest = memoryview(part)
        while rest:
            index, first = divmod(at, BLOCK)
            piece = rest[: BLOCK - first]
            if block := self._put(index, first, piece):
                yield index, block
            at += len(piece)
            rest = rest[len(piece) :]

    def give_back(self, block: bytearray) -> None:
        """Return the buffer of a block that was sent, for reuse."""
        self._free.append(block)
        self._budget.give_back(1)

    def _put(self, index: int, first: int, part: memoryview) -> bytearray | None:
        with self._lock:
            exists = index in self._incomplete
            block, missing = self._incomplete.pop(index) if exists else self._begin(index)
            memoryview(block)[first : first + len(part)] = part
            missing -= len(part)
            if missing:
                self._incomplete[index] = (block, missing)
                return None
        return block

    def _begin(self, index: int) -> tuple[bytearray, int]:
        self._budget.take(1)
        block = self._free.pop() if self._free else bytearray(BLOCK)
        length = min(BLOCK, self._size - index * BLOCK)
        block[length:] = bytes(BLOCK - length)
        return block, length
