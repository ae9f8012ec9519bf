"""Pauses between tries."""

import math

from fedimg.process.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 3)
    assert [backoff.pause(failures) for failures in range(1, 6)] == [0.5, 1, 2, 3, 3]
    assert [backoff.after(pause) for pause in (0.5, 1, 2, 3)] == [1, 2, 3, 3]


def test_first_pause_is_no_longer_than_the_longest() -> None:
    assert Backoff(5, 2).pause(1) == 2


def test_pause_after_very_many_failures_does_not_overflow() -> None:
    assert Backoff(1, 30).pause(10**6) == 30
    assert Backoff(1).pause(10**6) < math.inf
