"""Several pieces of work at once, each in a thread, and one answer for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fedimg.exceptions import Cancelled

K = TypeVar("K")
T = TypeVar("T")


def run_parallel(bodies: Mapping[K, Callable[[], T]], at_once: int) -> dict[K, T]:
    """What each returns, at most `at_once` of them at a time.

    What one raises is raised when all have ended; that one was Cancelled only when nothing else
    went wrong.
    """
    with ThreadPoolExecutor(max_workers=max(1, min(at_once, len(bodies)))) as pool:
        futures = {name: pool.submit(body) for name, body in bodies.items()}
    errors = [error for future in futures.values() if (error := future.exception())]
    # A failure may cancel the others: theirs is not the reason.
    for error in sorted(errors, key=lambda error: isinstance(error, Cancelled)):
        raise error
    return {name: future.result() for name, future in futures.items()}
