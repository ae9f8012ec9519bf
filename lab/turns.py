"""One after the other: what several processes want made, and only one of them has to make."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def in_turn(made: Path) -> Iterator[None]:
    """Wait until nobody else is at `made`, and keep others from it; a lock file stays beside it."""
    made.parent.mkdir(parents=True, exist_ok=True)
    with made.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
