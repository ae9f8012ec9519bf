"""Convert sizes to GiB, the unit of EC2 volumes."""

from __future__ import annotations

GIB = 1024**3


def gib(size: int) -> int:
    """Return `size` bytes in whole GiB, rounded up, the unit of EC2 volumes."""
    return -(-size // GIB)
