"""A former version of fedimg beside this one, to compare with: its commit is `FORMER`.

git worktree add ../former 8d20456 && python3 -m venv ../former/.venv
../former/.venv/bin/pip install -c ../former/constraints.txt ../former
BENCH_FORMER=../former/.venv/bin make bench
"""

import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

#: The version that the budgets of ratios are relative to.
FORMER = "8d20456"
#: Pairs of measurements, one of each version.
PAIRS = 5


def here() -> Path:
    """Return the folder of this version's programs."""
    return Path(sys.executable).parent


def programs() -> Path | None:
    """Return the folder of the former version's programs, or None if there is none."""
    named = os.environ.get("BENCH_FORMER", "")
    return Path(named).absolute() if named else None


def interleaved(
    measure: Callable[[], float], measure_former: Callable[[], float], pairs: int = PAIRS
) -> tuple[float, float]:
    """Return the medians of both; they take turns, so that a busy moment touches both."""
    found = [(measure(), measure_former()) for _ in range(pairs)]
    now, before = zip(*found, strict=True)
    return statistics.median(now), statistics.median(before)
