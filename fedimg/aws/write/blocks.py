"""Write a snapshot block by block through the EBS direct API, and complete it."""

from __future__ import annotations

import base64
import hashlib

from fedimg.aws.client.errors import code, passing
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter

#: In bytes; the only block size of EBS.
BLOCK = 512 * 1024
_ZEROS = bytes(BLOCK)
_ALGORITHM = "SHA256"


def count(size: int) -> int:
    """Return the number of blocks of an image of `size` bytes."""
    return -(-size // BLOCK)


class Blocks:
    """The blocks of one snapshot; many threads may call `put`.

    With `skip_zeros`, blocks of zeros are left out of the snapshot. `ebs_once` does not retry by
    itself: a waiter retries until EBS knows the new snapshot everywhere and failures have had time
    to pass.
    """

    def __init__(self, ebs_once: Client, snapshot: str, *, skip_zeros: bool) -> None:
        self._ebs = ebs_once
        self._snapshot = snapshot
        self._skip_zeros = skip_zeros
        # None for a block that was left out.
        self._digests: dict[int, bytes | None] = {}

    @property
    def done(self) -> int:
        """Return the number of blocks that are written or left out."""
        return len(self._digests)

    def put(self, waiter: Waiter, index: int, block: bytes | bytearray) -> None:
        """Write one block. Raises botocore's error when EBS refuses it for good."""
        if self._skip_zeros and block == _ZEROS:
            self._digests[index] = None
            return
        digest = hashlib.sha256(block).digest()
        # A retry overwrites a block that may have been written already.
        waiter.settled(
            lambda: self._ebs.put_snapshot_block(
                SnapshotId=self._snapshot,
                BlockIndex=index,
                BlockData=block,
                DataLength=BLOCK,
                Checksum=_text(digest),
                ChecksumAlgorithm=_ALGORITHM,
            )
        )
        self._digests[index] = digest

    def complete(self, waiter: Waiter) -> None:
        """Complete the snapshot. EBS verifies the number and the checksums of its blocks."""
        digests = [digest for _, digest in sorted(self._digests.items()) if digest]
        tries = 0

        def complete() -> None:
            nonlocal tries
            tries += 1
            try:
                self._ebs.complete_snapshot(
                    SnapshotId=self._snapshot,
                    ChangedBlocksCount=len(digests),
                    Checksum=_text(hashlib.sha256(b"".join(digests)).digest()),
                    ChecksumAlgorithm=_ALGORITHM,
                    ChecksumAggregationMethod="LINEAR",
                )
            except Exception as error:
                # The answer to an earlier, successful try may have been lost; the snapshot's state
                # will tell.
                if tries == 1 or code(error) != "ValidationException" or passing(error):
                    raise

        waiter.settled(complete)


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
