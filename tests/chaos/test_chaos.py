"""The short campaign; `make chaos` runs the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.campaign import campaign
from tests.chaos.strikes import Strike

#: Of each kind, where tests/system/test_crashes.py does not strike.
STRIKES = [
    Strike("unrecorded", "submit:*"),
    Strike("recorded", "plan"),
    Strike("called", "RegisterImage"),
    Strike("unrecorded", "register:us-east-2"),
    Strike("told", "register:eu-west-1"),
    Strike("moment", after=4.0),
    Strike("unrecorded", "end"),
]

#: At a withdrawal, a restoration, and the next withdrawal.
TAKEN_BACK = [
    Strike("unrecorded", "hide:*"),
    Strike("unrecorded", "share:*"),
    Strike("recorded", "record:*"),
]

#: While an image is deprecated, disabled and removed.
RETIRED = [Strike("unrecorded", f"{step}:*") for step in ("date", "disable", "remove")]


# A minute alone, and one kill more costs seconds.
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_whatever_is_killed_nothing_is_lost_made_twice_or_left(tmp_path: Path) -> None:
    with campaign(tmp_path / "site", seed=1, write_via="utility") as chaos:
        chaos.calm()
        chaos.kill_worker(STRIKES)
        chaos.kill_hub(1)
        chaos.end()
        chaos.take_back(TAKEN_BACK)
        chaos.retire([RETIRED])
    report = chaos.report
    assert report.verdict.problems == []
    assert report.verdict.figures["jobs"] >= 4
    # Each came to where it was meant to.
    assert not report.missed
    assert report.kills.total() == len(STRIKES) + len(TAKEN_BACK) + len(RETIRED)
    assert report.hub_kills.total() == 1
