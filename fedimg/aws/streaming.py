"""An image on its way: download → checksum → decompression → blocks, all at once."""

from __future__ import annotations

import os
from collections.abc import Callable

from fedimg.aws.crew import Bytes, Crew, Pipe, Room
from fedimg.aws.download import Download
from fedimg.aws.image_size import ImageSize
from fedimg.aws.unpacking import BLOCK, MEMORY, Cut, Gathered, unpacked
from fedimg.aws.xz_blocks import Block

# In bytes of the file: some blocks of those that Koji's `xz -z6T0` makes of 24 MiB, so that several
# are unpacked while one download brings them one after the other.
_WAITING = 16 * 1024 * 1024
# The image's blocks that wait for a connection.
_BLOCKS_WAITING = 16
# Four unpack some 350 MiB a second, and EBS takes 500 of an account (1000 PutSnapshotBlock).
_MOST_UNPACKING = 4


def stream(
    crew: Crew,
    download: Download,
    size: ImageSize,
    put: Callable[[int, bytearray], None],
    *,
    connections: int,
    glance: Callable[[], None],
) -> None:
    """Download an image, and have each of its blocks `put`, by so many threads and in any order.

    One thread downloads and hashes, as many as there are cores decompress, a block of the file
    each, and each connection has one: what takes their time releases Python's lock. `glance` is
    called now and then. Returns when all is done. Raises what the first thread to fail raised, and
    what `Crew.check` does.
    """
    waiting = Room(crew, _WAITING)
    # A decompressor takes no more memory than its dictionary, and that none which it does not fill.
    memory = Room(crew, MEMORY)
    begun: Pipe[tuple[Block, Bytes]] = Pipe(crew, 1)
    filled: Pipe[tuple[int, bytearray]] = Pipe(crew, _BLOCKS_WAITING)
    gathered = Gathered(crew, size.uncompressed_size, connections + _BLOCKS_WAITING)

    def begin(block: Block) -> Bytes:
        pieces = Bytes(crew, waiting)
        begun.put((block, pieces))
        return pieces

    def fetch() -> None:
        download.run(Cut(size.blocks, begin).give)
        begun.close()

    def unpack() -> None:
        for block, pieces in begun:
            needed = min(block.size, MEMORY)
            memory.take(needed)
            for at, part in unpacked(block, pieces):
                if whole := gathered.add(at, part):
                    filled.put(whole)
            memory.give_back(needed)

    def send() -> None:
        for index, block in filled:
            put(index, block)
            gathered.give_back(block)

    crew.start("download", fetch)
    cores = len(os.sched_getaffinity(0))
    unpacking = [
        crew.start(f"unpacking {number}", unpack)
        for number in range(min(cores, _MOST_UNPACKING, len(size.blocks)))
    ]
    for number in range(min(connections, -(-size.uncompressed_size // BLOCK))):
        crew.start(f"blocks {number}", send)
    crew.join(unpacking, glance)
    filled.close()
    crew.join(glance=glance)
