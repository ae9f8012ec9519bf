"""Test the pipeline with a web server and real threads, for files with all kinds of blocks.

Follows fedimg/aws/write/blocks.py, fedimg/aws/write/disk_hash.py, fedimg/aws/write/download.py,
fedimg/aws/write/reassembly.py, fedimg/aws/write/thread_group.py.
"""

import hashlib
import io
import lzma
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedimg.aws.write import xz_blocks
from fedimg.aws.write.blocks import BLOCK, count
from fedimg.aws.write.disk_hash import DiskHash
from fedimg.aws.write.download import Download
from fedimg.aws.write.image_errors import ImageUnusable
from fedimg.aws.write.image_size import OWN_HOST_ONLY, ImageSize
from fedimg.aws.write.pipeline import Bounds, stream
from fedimg.aws.write.thread_group import ThreadGroup, TooSlow
from fedimg.exceptions import Cancelled
from fedimg.images import Disk
from tests.aws.web import Web, serve

KIB, MIB = 1 << 10, 1 << 20
#: Nothing here takes so long, on a busy machine neither.
NEVER_MIND = 60.0


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as web:
        yield web


def streams(*parts: bytes) -> bytes:
    """Return a file with a block for each part."""
    return b"".join(lzma.compress(part, preset=0) for part in parts)


def random_streams(number: int, size: int) -> bytes:
    """Return a file with so many equal blocks of random bytes: to pack one costs enough."""
    return streams(random.Random(0).randbytes(size)) * number


class Image:
    """The result of one image."""

    def __init__(self) -> None:
        self.blocks: dict[int, bytes] = {}
        self.lock = threading.Lock()
        self.hold: Callable[[int], object] = lambda index: None

    def put(self, index: int, block: bytearray) -> None:
        self.hold(index)
        with self.lock:
            assert index not in self.blocks
            self.blocks[index] = bytes(block)

    @property
    def raw(self) -> bytes:
        return b"".join(self.blocks[index] for index in range(len(self.blocks)))


def bring(
    web: Web,
    packed: bytes,
    image: Image,
    *,
    bounds: Bounds,
    connections: int = 4,
    checksum: str | None = None,
    limit: float = NEVER_MIND,
    stop: threading.Event | None = None,
) -> Disk:
    """Return the disk whose hash was computed."""
    url = web.put("image.raw.xz", packed)
    blocks = xz_blocks.read(io.BytesIO(packed))
    size = ImageSize(len(packed), blocks)
    download = Download(
        url, size=len(packed), checksum=checksum, idle=NEVER_MIND, trusted=OWN_HOST_ONLY
    )
    with ThreadGroup(stop or threading.Event(), limit=limit) as threads:
        disk_hash = DiskHash(threads)
        try:
            stream(
                threads,
                download,
                size,
                image.put,
                connections=connections,
                on_poll=lambda: None,
                bounds=bounds,
                disk_hash=disk_hash,
            )
        finally:
            download.end()
    return disk_hash.disk()


def padded(raw: bytes) -> bytes:
    return raw.ljust(count(len(raw)) * BLOCK, b"\0")


@pytest.mark.parametrize("seed", range(12))
def test_image_is_complete_for_all_kinds_of_blocks(web: Web, seed: int) -> None:
    """Use bounds so narrow that threads wait for each other all the time."""
    luck = random.Random(seed)
    parts = [
        luck.randbytes(luck.choice([1, 1000, 300 * KIB, MIB]))
        + bytes(luck.choice([0, 1, BLOCK, 3 * MIB]))
        for _ in range(luck.choice([1, 3, 20]))
    ]
    image = Image()
    memory = luck.choice([1, MIB, 4 * MIB])
    bounds = Bounds(waiting=256 * KIB, memory=memory, threads=luck.choice([1, 2, 4]))
    raw = b"".join(parts)
    connections = luck.choice([1, 4, 64])
    disk = bring(web, streams(*parts), image, bounds=bounds, connections=connections)
    assert image.raw == padded(raw)
    assert disk == Disk(hashlib.sha256(raw).hexdigest(), len(raw))


@pytest.mark.process
def test_thousands_of_tiny_blocks_are_reassembled(web: Web) -> None:
    raw = random.Random(3).randbytes(2 * BLOCK + 77)
    command = ["xz", "-0", "-T2", "--block-size=500", "--stdout"]
    packed = subprocess.run(command, input=raw, capture_output=True, check=True).stdout
    image = Image()
    bring(web, packed, image, bounds=Bounds(threads=4))
    assert image.raw == padded(raw)


def test_large_block_gets_memory_before_later_blocks(web: Web) -> None:
    """Otherwise its waiting pieces would block those of the other, and both for ever."""
    luck = random.Random(8)
    parts = [
        bytes(16 * MIB),
        luck.randbytes(400 * KIB).ljust(32 * MIB, b"\0"),
        luck.randbytes(600 * KIB).ljust(16 * MIB, b"\0"),
    ]
    image = Image()
    # The first is under way for as long as the others need to come.
    image.hold = lambda index: time.sleep(0.05 if index < 32 else 0)
    bounds = Bounds(waiting=512 * KIB, memory=32 * MIB, threads=4)
    bring(web, streams(*parts), image, bounds=bounds, connections=1)
    assert image.raw == b"".join(parts)


def test_many_more_blocks_than_buffers_come_with_their_own_bytes(web: Web) -> None:
    parts = [bytes([number]) * (700 * KIB) for number in range(200)]
    image = Image()
    luck = random.Random(4)
    image.hold = lambda index: time.sleep(luck.random() / 200)
    bring(web, streams(*parts), image, bounds=Bounds(threads=4), connections=8)
    whole = b"".join(parts)
    assert hashlib.sha256(image.raw).digest() == hashlib.sha256(padded(whole)).digest()


def working() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [each for each in names if each.startswith(("download", "unpacking ", "blocks "))]


def let_go() -> None:
    deadline = time.monotonic() + NEVER_MIND
    while working():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_damaged_block_ends_all_waiting_threads(web: Web) -> None:
    packed = bytearray(random_streams(6, 2 * MIB))
    packed[-MIB] ^= 1
    bounds = Bounds(waiting=256 * KIB, memory=2 * MIB, threads=4)
    with pytest.raises(ImageUnusable, match="decompression: "):
        bring(web, bytes(packed), Image(), bounds=bounds)
    let_go()


def test_wrong_checksum_is_reported_after_the_last_block(web: Web) -> None:
    with pytest.raises(ImageUnusable, match="checksum: "):
        bring(
            web,
            streams(b"one", b"two"),
            Image(),
            bounds=Bounds(),
            checksum="sha256:" + "0" * 64,
        )
    let_go()


class Refused(Exception):
    pass


def test_refused_block_ends_all_waiting_threads(web: Web) -> None:
    def refuse(index: int) -> None:
        if index == 9:
            raise Refused

    image = Image()
    image.hold = refuse
    bounds = Bounds(waiting=256 * KIB, memory=2 * MIB, threads=4)
    with pytest.raises(Refused):
        bring(web, random_streams(6, 2 * MIB), image, bounds=bounds)
    let_go()


@pytest.mark.parametrize(
    ("stopped", "limit", "error"), [(True, NEVER_MIND, Cancelled), (False, 1.0, TooSlow)]
)
def test_all_waiting_threads_end_on_stop_or_timeout(
    web: Web, stopped: bool, limit: float, error: type[Exception]
) -> None:
    stop, over = threading.Event(), threading.Event()
    image = Image()
    image.hold = lambda index: over.wait(NEVER_MIND)
    if stopped:
        threading.Timer(0.5, stop.set).start()
    try:
        with pytest.raises(error):
            bring(
                web,
                random_streams(12, 4 * MIB),
                image,
                bounds=Bounds(waiting=256 * KIB, memory=4 * MIB, threads=4),
                limit=limit,
                stop=stop,
            )
    finally:
        over.set()
    let_go()


# Memory

#: What an image of any size may take, a process's own 70 MiB among it.
MOST_MIB = 256
MEASURED = """
import sys, threading, time
from fedimg.aws.write.disk_hash import DiskHash
from fedimg.aws.write.thread_group import ThreadGroup
from fedimg.aws.write.download import Download
from fedimg.aws.write.image_size import OWN_HOST_ONLY, image_size
from fedimg.aws.write.pipeline import Bounds, stream

url = sys.argv[1]
stop = threading.Event()
size = image_size(url, maximum=1 << 40)
download = Download(url, size=size.compressed_size, checksum=None, idle=60, trusted=OWN_HOST_ONLY)
with ThreadGroup(stop, limit=120) as threads:
    stream(threads, download, size, lambda index, block: time.sleep(0.01), connections=64,
           on_poll=lambda: None, bounds=Bounds(threads=4), disk_hash=DiskHash(threads))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 1024)
"""


@pytest.mark.process
def test_memory_is_bounded_with_four_full_dictionaries(web: Web) -> None:
    luck = random.Random(7)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 64 * MIB}]
    block = lzma.compress(
        luck.randbytes(3 * MIB) + b"image" * (21 * MIB // 5), format=lzma.FORMAT_XZ, filters=filters
    )
    url = web.put("image.raw.xz", block * 24)
    given: dict[str, Any] = {"capture_output": True, "text": True}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, url], cwd=Path(__file__).parents[3], check=True, **given
    )
    print(done.stdout)
    assert float(done.stdout) < MOST_MIB
