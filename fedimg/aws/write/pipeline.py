"""An image on its way: download → checksum → decompression → blocks, all at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from fedimg.aws.write.blocks import count
from fedimg.aws.write.download import Download
from fedimg.aws.write.image_size import ImageSize
from fedimg.aws.write.reassembly import Reassembly
from fedimg.aws.write.thread_group import Bytes, MemoryBudget, Pipe, ThreadGroup
from fedimg.aws.write.unpacking import MEMORY, Cut, unpacked
from fedimg.aws.write.xz_blocks import Block

# The image's blocks that wait for a connection.
_BLOCKS_WAITING = 16


def _threads() -> int:
    # Four unpack some 350 MiB a second, and EBS takes 500 of an account (1000 PutSnapshotBlock).
    return min(len(os.sched_getaffinity(0)), 4)


@dataclass(frozen=True)
class Bounds:
    """What one image may take at once: bytes of the file that wait to be unpacked, of which a
    download brings 256 KiB at a time; bytes of memory to unpack with; threads that do it.

    Some blocks of those that Koji's `xz -z6T0` makes, of 24 MiB, fit in, so that several are
    unpacked while one download brings them one after the other.
    """

    waiting: int = 16 * 1024 * 1024
    memory: int = MEMORY
    threads: int = field(default_factory=_threads)


def stream(
    threads: ThreadGroup,
    download: Download,
    size: ImageSize,
    put: Callable[[int, bytearray], None],
    *,
    connections: int,
    glance: Callable[[], None],
    bounds: Bounds,
) -> None:
    """Download an image, and have each of its blocks `put`, by so many threads and in any order.

    One thread downloads and hashes, some decompress, a block of the file each, and each connection
    has one: what takes their time releases Python's lock. `glance` is called now and then. Returns
    when all is done. Raises what `ThreadGroup.join` does.
    """
    waiting = MemoryBudget(threads, bounds.waiting)
    # A decompressor takes no more memory than its dictionary, and that none which it does not fill.
    memory = MemoryBudget(threads, bounds.memory)
    begun: Pipe[tuple[Block, Bytes]] = Pipe(threads, 1)
    filled: Pipe[tuple[int, bytearray]] = Pipe(threads, _BLOCKS_WAITING)
    gathered = Reassembly(threads, size.uncompressed_size, connections + _BLOCKS_WAITING)

    def needed(block: Block) -> int:
        return min(block.size, bounds.memory)

    def begin(block: Block) -> Bytes:
        # In the order in which they come: a later block that had the memory would wait for pieces
        # that have no room, because of those of the earlier one that waits for memory.
        memory.take(needed(block))
        pieces = Bytes(threads, waiting)
        begun.put((block, pieces))
        return pieces

    def fetch() -> None:
        download.run(Cut(size.blocks, begin).give)
        begun.close()

    def unpack() -> None:
        for block, pieces in begun:
            for at, part in unpacked(block, pieces):
                for whole in gathered.add(at, part):
                    filled.put(whole)
            memory.give_back(needed(block))

    def send() -> None:
        for index, block in filled:
            put(index, block)
            gathered.give_back(block)

    threads.start("download", fetch)
    unpacking = [
        threads.start(f"unpacking {number}", unpack)
        for number in range(min(bounds.threads, len(size.blocks)))
    ]
    for number in range(min(connections, count(size.uncompressed_size))):
        threads.start(f"blocks {number}", send)
    threads.join(unpacking, glance)
    filled.close()
    threads.join(glance=glance)
