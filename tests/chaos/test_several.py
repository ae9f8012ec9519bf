"""The short campaign against several workers; `make chaos` runs the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.several import run
from tests.postgresql import PostgreSQL


# A minute alone.
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_workers_killed_and_frozen_lose_nothing_and_make_nothing_twice(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    report = run(tmp_path / "site", postgresql.blank(), seed=0, strikes=8, workers=2)
    assert report.verdict.problems == []
    assert report.verdict.figures["jobs"] >= 4
    assert report.strikes.total() == 8
