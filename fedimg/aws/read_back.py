"""Read the bytes of a snapshot back through the EBS direct API, and compute their SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from fedimg.aws.client.types import Client
from fedimg.images import Disk

#: In bytes; the only block size of EBS.
BLOCK = 512 * 1024
_ZEROS = bytes(BLOCK)
#: How many blocks are requested at the same time, and how many are in memory.
CONNECTIONS, _WINDOW = 32, 64
#: EBS's longest page.
_PAGE = 10000


class NotZero(Exception):
    """A snapshot has other bytes than zeros behind the disk."""


@dataclass(frozen=True)
class Listing:
    """The blocks that a snapshot holds, each with its index and token; the others are zeros."""

    snapshot: str
    blocks: Sequence[tuple[int, str]]

    @property
    def size(self) -> int:
        """Return how many bytes have to be read."""
        return len(self.blocks) * BLOCK


def listed(ebs: Client, snapshot: str) -> Listing:
    """Return which blocks a completed snapshot holds. Raises botocore's errors."""
    blocks: list[tuple[int, str]] = []
    more: dict[str, Any] = {}
    while True:
        page = ebs.list_snapshot_blocks(SnapshotId=snapshot, MaxResults=_PAGE, **more)
        blocks += [(int(each["BlockIndex"]), str(each["BlockToken"])) for each in page["Blocks"]]
        if not page.get("NextToken"):
            return Listing(snapshot, sorted(blocks))
        more = {"NextToken": page["NextToken"]}


def read(ebs: Client, listing: Listing, length: int) -> Disk:
    """Return the SHA-256 of a snapshot's first `length` bytes.

    Raises NotZero when anything but zeros follows these bytes, and botocore's errors.
    """
    digest = hashlib.sha256()
    at = 0
    with ThreadPoolExecutor(max_workers=CONNECTIONS) as pool:
        for start in range(0, len(listing.blocks), _WINDOW):
            window = listing.blocks[start : start + _WINDOW]
            read_one = partial(_block, ebs, listing.snapshot)
            for (index, _), block in zip(window, pool.map(read_one, window), strict=True):
                at = _add_zeros(digest, at, min(index * BLOCK, length))
                own = max(0, min(length - index * BLOCK, BLOCK))
                digest.update(memoryview(block)[:own])
                at += own
                if block[own:].strip(b"\0"):
                    raise NotZero(
                        f"snapshot {listing.snapshot} has other bytes than zeros behind byte "
                        f"{length}, in its block {index}"
                    )
    _add_zeros(digest, at, length)
    return Disk(digest.hexdigest(), length)


def _add_zeros(digest: Any, at: int, until: int) -> int:
    while at < until:
        count = min(until - at, BLOCK)
        digest.update(memoryview(_ZEROS)[:count])
        at += count
    return at


def _block(ebs: Client, snapshot: str, block: tuple[int, str]) -> bytes:
    index, token = block
    answer = ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockToken=token)
    data: bytes = answer["BlockData"].read()
    return data.ljust(BLOCK, b"\0")
