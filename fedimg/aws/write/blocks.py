"""A snapshot written block by block through the EBS direct API, and sealed when all are there."""

from __future__ import annotations

import base64
import hashlib

from fedimg.aws.client.errors import code, passing
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter

#: In bytes; the only block size that EBS has.
BLOCK = 512 * 1024
_ZEROS = bytes(BLOCK)
_ALGORITHM = "SHA256"


def count(size: int) -> int:
    """How many blocks an image of so many bytes has."""
    return -(-size // BLOCK)


class Blocks:
    """The blocks of one snapshot; `put` may be called by many threads at once.

    With `skip_zeros` a block of zeros is left out of the snapshot. `ebs_once` does not try a call
    again by itself: a waiter does, until EBS knows the new snapshot everywhere and failing calls
    have had their time to pass.
    """

    def __init__(self, ebs_once: Client, snapshot: str, *, skip_zeros: bool) -> None:
        self._ebs = ebs_once
        self._snapshot = snapshot
        self._skip_zeros = skip_zeros
        # None of a block that was left out.
        self._digests: dict[int, bytes | None] = {}

    @property
    def done(self) -> int:
        """How many blocks are written, or left out."""
        return len(self._digests)

    def put(self, waiter: Waiter, index: int, block: bytes | bytearray) -> None:
        """Write one block. Raises botocore's error when EBS refuses it for good."""
        if self._skip_zeros and block == _ZEROS:
            self._digests[index] = None
            return
        digest = hashlib.sha256(block).digest()
        # A block that may have been written already is written over.
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
        """Seal the snapshot. EBS compares the number and the checksums of the blocks it has."""
        digests = [digest for _, digest in sorted(self._digests.items()) if digest]
        tries = 0

        def seal() -> None:
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
                # It is sealed already where the answer to an earlier try was lost; whether it is,
                # its state will show.
                if tries == 1 or code(error) != "ValidationException" or passing(error):
                    raise

        waiter.settled(seal)


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
