"""Stream an image: download, verify, decompress and send blocks, all at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from fedimg.aws.write.blocks import count
from fedimg.aws.write.disk_hash import DiskHash
from fedimg.aws.write.download import Download
from fedimg.aws.write.image_size import ImageSize
from fedimg.aws.write.reassembly import Reassembly
from fedimg.aws.write.thread_group import Bytes, MemoryBudget, Pipe, ThreadGroup
from fedimg.aws.write.unpacking import MEMORY, Cut, Section, unpacked

# The number of the image's blocks that may wait for a connection.
_BLOCKS_WAITING = 16


def _threads() -> int:
    # Four threads decompress about 350 MiB/s; EBS accepts 500 MiB/s of an account (1000 calls/s).
    return min(len(os.sched_getaffinity(0)), 4)


@dataclass(frozen=True)
class Bounds:
    """The limits of one image: bytes waiting to be decompressed, bytes of memory, and threads.

    Several blocks of the size that Koji's `xz -z6T0` makes, 24 MiB, fit in, so that several are
    decompressed while one download brings them one after the other. The download adds 256 KiB at a
    time.
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
    on_poll: Callable[[], None],
    bounds: Bounds,
    disk_hash: DiskHash,
    on_hashed: Callable[[], None] = lambda: None,
) -> None:
    """Download an image, and call `put` for each of its blocks, in any order.

    `decompress` does the first half; `connections` threads call `put`, and their slow calls release
    Python's lock. `on_poll` is called several times a second, and `on_hashed` once, when
    `disk_hash` has the whole image. Returns when all blocks are sent, and the group's threads have
    ended.
    Raises what `ThreadGroup.join` raises.
    """
    filled: Pipe[tuple[int, bytearray]] = Pipe(threads, _BLOCKS_WAITING)
    reassembly = Reassembly(threads, size.uncompressed_size, connections + _BLOCKS_WAITING)

    def add(at: int, part: bytes) -> None:
        for complete in reassembly.add(at, part):
            filled.put(complete)

    def send() -> None:
        for index, block in filled:
            put(index, block)
            reassembly.give_back(block)

    for number in range(min(connections, count(size.uncompressed_size))):
        threads.start(f"blocks {number}", send)
    decompress(threads, download, size, add, on_poll=on_poll, bounds=bounds, disk_hash=disk_hash)
    filled.close()
    on_hashed()
    threads.join(on_poll=on_poll)


def decompress(
    threads: ThreadGroup,
    download: Download,
    size: ImageSize,
    add: Callable[[int, bytes], None],
    *,
    on_poll: Callable[[], None],
    bounds: Bounds,
    disk_hash: DiskHash,
) -> None:
    """Download an image, and call `add` for each of its parts, with their offset, in any order.

    One thread downloads and hashes, and some decompress one section of the file each.
    Returns when all parts are added and hashed, and the file's checksum is right. Raises what
    `ThreadGroup.join` raises.
    """
    waiting = MemoryBudget(threads, bounds.waiting)
    # A decompressor takes the memory of its dictionary, as far as the block fills it.
    memory = MemoryBudget(threads, bounds.memory)
    started: Pipe[tuple[Section, Bytes]] = Pipe(threads, 1)

    def needed(block: Section) -> int:
        return min(block.size, bounds.memory)

    def begin(block: Section) -> Bytes:
        # Blocks take memory in the order of the file. Otherwise a later block could hold memory and
        # wait for pieces, while pieces of an earlier block, which waits for memory, fill the queue.
        memory.take(needed(block))
        pieces = Bytes(threads, waiting)
        started.put((block, pieces))
        return pieces

    def fetch() -> None:
        download.run(Cut(size.blocks, begin).give)
        started.close()

    def unpack() -> None:
        for block, pieces in started:
            for at, part in unpacked(block, pieces):
                disk_hash.add(at, part)
                add(at, part)
            # A block's parts are in memory until those of the blocks before it are hashed.
            end = block.at + block.size
            disk_hash.when_hashed(end, partial(memory.give_back, needed(block)))

    threads.start("download", fetch)
    unpacking = [
        threads.start(f"unpacking {number}", unpack)
        for number in range(min(bounds.threads, len(size.blocks)))
    ]
    threads.join(unpacking, on_poll)
