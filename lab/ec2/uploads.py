"""A snapshot that is being written block by block through the EBS direct API."""

import base64
import hashlib
import os
import threading
import time
from pathlib import Path

BLOCK = 524288  # bytes; the only block size EBS has


class Upload:
    """The blocks that were written, with checksums; they go straight to the snapshot's file."""

    def __init__(self, path: Path, blocks: int, timeout: float) -> None:
        self.blocks = blocks
        self.timeout = timeout  # seconds without a block until EBS gives the snapshot up
        self.last = time.monotonic()
        self._path = path
        self._lock = threading.Lock()
        self._digests: dict[int, bytes] = {}

    def write(self, index: int, data: bytes, digest: bytes) -> None:
        """Put a block, in place of what was put there before."""
        with self._lock:
            known = self._digests.get(index)
        if known != digest:
            descriptor = os.open(self._path, os.O_WRONLY)
            try:
                os.pwrite(descriptor, data, index * BLOCK)
            finally:
                os.close(descriptor)
        with self._lock:
            self._digests[index] = digest
            self.last = time.monotonic()

    def count(self) -> int:
        with self._lock:
            return len(self._digests)

    def indexes(self) -> set[int]:
        with self._lock:
            return set(self._digests)

    def linear(self) -> str:
        """Return the aggregate checksum: SHA-256 over the blocks' checksums in the order of the
        blocks.
        """
        with self._lock:
            joined = b"".join(digest for _, digest in sorted(self._digests.items()))
        return base64.b64encode(hashlib.sha256(joined).digest()).decode()
