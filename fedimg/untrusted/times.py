"""Read a time that a person or a request gives, as a date or as an age."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_AGE = re.compile(r"(\d{1,6})([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 168}


def parse_time(text: str, now: float) -> float:
    """Return the time that a text gives, in seconds since the epoch: ISO 8601, or an age.

    An age is counted back from `now`: 36h, 7d or 2w. A time without a zone is UTC. Raises
    ValueError when the text is neither, or gives a time in the future.
    """
    if age := _AGE.fullmatch(text):
        # A hub takes 0 for no time.
        return max(1.0, now - int(age[1]) * _HOURS[age[2]] * 3600)
    try:
        when = datetime.fromisoformat(text)
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f'"{text}" is not a time; write 2026-11-23, 2026-11-23T18:30Z, or an age such as 36h '
            "or 7d"
        ) from error
    if seconds > now:
        raise ValueError(f"{text} is in the future")
    return seconds
