"""Run functions concurrently, each in a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fedimg.exceptions import Cancelled

K = TypeVar("K")
T = TypeVar("T")


def run_parallel(functions: Mapping[K, Callable[[], T]], limit: int) -> dict[K, T]:
    """Run all functions, at most `limit` at a time; return their results by name.

    When all have ended, the first error is raised: Cancelled only if there is no other error.
    """
    with ThreadPoolExecutor(max_workers=max(1, min(limit, len(functions)))) as pool:
        futures = {name: pool.submit(function) for name, function in functions.items()}
    errors = [error for future in futures.values() if (error := future.exception())]
    # A failure may have cancelled the other functions: raise the failure.
    for error in sorted(errors, key=lambda error: isinstance(error, Cancelled)):
        raise error
    return {name: future.result() for name, future in futures.items()}
