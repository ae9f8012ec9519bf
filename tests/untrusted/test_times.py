from __future__ import annotations

import pytest

from fedimg.untrusted.times import parse_time

HOUR, DAY, WEEK = 3600.0, 86400.0, 7 * 86400.0
NOON = 1_795_435_200.0  # 2026-11-23T12:00:00Z


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-23", NOON - 12 * HOUR),
        ("2026-11-22T12:00", NOON - DAY),
        ("2026-11-22T12:00:00Z", NOON - DAY),
        ("2026-11-22T14:00:00+02:00", NOON - DAY),
        ("36h", NOON - 36 * HOUR),
        ("7d", NOON - WEEK),
        ("2w", NOON - 2 * WEEK),
    ],
)
def test_time_is_parsed(text: str, seconds: float) -> None:
    assert parse_time(text, NOON) == seconds


@pytest.mark.parametrize("text", ["", "yesterday", "7", "-7d", "7 days", "2026-11-24", "9999999d"])
def test_text_that_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a time|in the future"):
        parse_time(text, NOON)
