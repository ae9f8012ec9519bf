"""Compute the SHA-256 of an image's uncompressed bytes, whose parts arrive in any order."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import threading
from collections.abc import Callable

from fedimg.aws.write.thread_group import ThreadGroup
from fedimg.images import Disk

#: In bytes. Of blocks of 24 MiB, as Koji's `xz -z6T0` makes, two are decompressed at a time. The
#: second waits for the first once; from then on they begin at different times and none has to wait.
_KEPT = 16 * 1024 * 1024
_POLL_SECONDS = 0.1


class DiskHash:
    """The SHA-256 of an image; many threads may add its parts.

    Parts are kept until all parts before them were added. A thread that is far ahead of the others
    waits, so that few megabytes are kept. `also` is called with each part that was hashed, in the
    order of the image and by one thread at a time.
    """

    def __init__(
        self, threads: ThreadGroup, also: Callable[[bytes], None] = lambda part: None
    ) -> None:
        self._threads = threads
        self._also = also
        self._hash = hashlib.sha256()
        self._at = 0
        self._kept = 0
        self._parts: dict[int, bytes] = {}
        self._calls: list[tuple[int, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._busy = False

    def add(self, at: int, part: bytes) -> None:
        """Add the part at offset `at`, and hash it if all parts before it are hashed.

        Waits while too much is kept; waiting ends with what `ThreadGroup.raise_if_over` raises.
        """
        with self._changed:
            # The part that all others wait for never waits for them.
            while at != self._at and self._kept + len(part) > _KEPT:
                self._threads.raise_if_over()
                self._changed.wait(_POLL_SECONDS)
            self._parts[at] = part
            self._kept += len(part)
        self._advance()

    def when_hashed(self, end: int, call: Callable[[], object]) -> None:
        """Call `call` once, in any thread, when the first `end` bytes are hashed."""
        with self._changed:
            heapq.heappush(self._calls, (end, next(self._numbers), call))
        self._advance()

    def disk(self) -> Disk:
        """Return the hash and the number of the bytes that were hashed so far."""
        with self._changed:
            return Disk(self._hash.hexdigest(), self._at)

    def _advance(self) -> None:
        """Hash what can be hashed; one thread at a time does, and the others go on."""
        while True:
            with self._changed:
                if self._busy:
                    return
                due = []
                while self._calls and self._calls[0][0] <= self._at:
                    due.append(heapq.heappop(self._calls)[2])
                part = self._parts.pop(self._at, None)
                self._busy = part is not None
            for call in due:
                call()
            if part is None:
                return
            # Python's lock is free meanwhile.
            self._hash.update(part)
            self._also(part)
            with self._changed:
                self._at += len(part)
                self._kept -= len(part)
                self._busy = False
                self._changed.notify_all()
