"""Repeat an attempt with new resources while its failure may pass: the one loop of attempts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fedimg.aws.client.waiter import Waiter

T = TypeVar("T")


def first_success(
    attempt: Callable[[int], T],
    waiter: Waiter,
    *,
    attempts: int,
    pause: float,
    new: str,
    may_pass: Callable[[Exception], bool],
    on_progress: Callable[[str], object] = lambda text: None,
    discard: Callable[[], object] = lambda: None,
) -> T:
    """Return what the first successful call of `attempt` returns; the calls are numbered from 0.

    After a failure that `may_pass`, `on_progress` is told so, and that a `new` resource follows;
    then `discard` removes the old one, and `pause` seconds pass. Raises every other failure at
    once, and the last of `attempts` whatever it is; Cancelled when the waiter's `stop` is set.
    """
    # By hand: with a library that counts attempts, the calls would take as many lines as the loop.
    for number in range(attempts - 1):
        try:
            return attempt(number)
        except Exception as failure:
            if not may_pass(failure):
                raise
            on_progress(f"attempt {number + 1} failed, retrying with a new {new}: {failure}")
        discard()
        waiter.pause(pause)
    return attempt(attempts - 1)
