"""Regions that are away: known to all, told once, asked again ever more seldom."""

import logging
import time
from collections.abc import Collection

import pytest

from fedimg.config import Limits
from fedimg.jobs.outages import Outage, Outages
from fedimg.store.store import Store

DATABASES = ("sqlite", "postgresql")
REGION = "ap-east-1"
LIMITS = Limits(wait_maximum=15, retry_after=100)


@pytest.fixture
def outages(store: Store) -> Outages:
    return Outages(store, LIMITS)


class Clock:
    """What time it is; it stands still until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        monkeypatch.setattr(time, "time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def nothing(regions: Collection[str]) -> dict[str, str]:
    return {}


def in_vain(region: str) -> str:
    return "no answer"


def answers(region: str) -> str:
    return ""


def away(outages: Outages) -> Outage:
    (outage,) = outages.all()
    return outage


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def test_every_worker_knows_and_one_tells_it(
    store: Store, outages: Outages, caplog: pytest.LogCaptureFixture
) -> None:
    other = Outages(store, LIMITS)
    assert other.away(REGION) is None
    for each in (outages, other, outages):
        each.begin(REGION, "no answer")
    assert other.away(REGION) == outages.away(REGION) == away(outages)
    (words,) = told(caplog)
    assert f"{REGION} is unavailable" in words
    assert "no answer" in words


def test_it_is_asked_at_growing_intervals(
    outages: Outages, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outages.begin(REGION, "no answer")
    # The first look of a worker that has just started asks whatever is away.
    outages.look(in_vain, nothing)
    pauses = []
    for _ in range(5):
        due = away(outages).due
        assert due
        pauses.append(due - clock.now)
        clock.now = due - 1
        outages.look(answers, nothing)
        clock.now = due
        outages.look(in_vain, nothing)
    assert pauses == pytest.approx([30, 60, 100, 100, 100])
    assert len(told(caplog)) == 1


def test_its_return_is_told_once_and_known(
    store: Store, outages: Outages, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outages.begin(REGION, "no answer")
    clock.now += 20
    outages.look(answers, nothing)
    outages.look(answers, nothing)
    assert outages.away(REGION) is None
    assert Outages(store, LIMITS).all() == []
    assert f"{REGION} answers again after 20 s" in told(caplog)[1]
    assert len(told(caplog)) == 2


def test_one_that_comes_and_goes_is_asked_as_seldom_as_before(
    outages: Outages, clock: Clock
) -> None:
    outages.begin(REGION, "no answer")
    outages.look(in_vain, nothing)
    outages.postpone(away(outages), "no answer")
    outages.end(away(outages))
    clock.now += 50
    outages.begin(REGION, "no answer")
    assert away(outages).due == pytest.approx(clock.now + 60)
    outages.end(away(outages))
    clock.now += 200
    outages.begin(REGION, "no answer")
    assert away(outages).due == pytest.approx(clock.now + 15)


def test_region_that_is_excluded_is_let_be_and_told_once(
    store: Store, outages: Outages, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outages.begin(REGION, "no answer")
    restarted = Outages(store, LIMITS)
    asked: list[str] = []

    def probe(region: str) -> str:
        asked.append(region)
        return "no answer"

    for _ in range(5):
        restarted.look(probe, lambda regions: dict.fromkeys(regions, "excluded"))
        clock.now += 1000
    assert asked == []
    assert away(restarted).due is None
    assert len(told(caplog)) == 2
    assert "is no longer waited for: excluded" in told(caplog)[1]


def test_region_that_is_let_be_and_wanted_again_is_asked(store: Store, outages: Outages) -> None:
    outages.begin(REGION, "no answer")
    outages.let_be(away(outages), "excluded")
    Outages(store, LIMITS).look(answers, nothing)
    assert outages.all() == []
