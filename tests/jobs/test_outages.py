"""Outages: seen by all workers, logged once, and probed at growing intervals."""

import logging
import time
from collections.abc import Collection

import pytest
import sqlalchemy as sa

from fedimg.config import Limits
from fedimg.jobs.outages import Outage, Outages
from fedimg.store import tables
from fedimg.store.store import Store

DATABASES = ("sqlite", "postgresql")
REGION = "ap-east-1"
LIMITS = Limits(wait_maximum=15, retry_after=100)


@pytest.fixture
def outages(store: Store) -> Outages:
    return Outages(store, LIMITS)


class Clock:
    """Stands in for time.time; its time changes only when a test sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        monkeypatch.setattr(time, "time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def none_unwanted(regions: Collection[str]) -> dict[str, str]:
    return {}


def no_answer(region: str) -> str:
    return "no answer"


def answers(region: str) -> str:
    return ""


def away(outages: Outages) -> Outage:
    (outage,) = outages.all()
    return outage


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def test_every_worker_sees_an_outage_and_one_logs_it(
    store: Store, outages: Outages, caplog: pytest.LogCaptureFixture
) -> None:
    other = Outages(store, LIMITS)
    assert other.away(REGION) is None
    for each in (outages, other, outages):
        each.begin(REGION, "no answer")
    assert other.away(REGION) == outages.away(REGION) == away(outages)
    (warning,) = warnings(caplog)
    assert f"{REGION} is unavailable" in warning
    assert "no answer" in warning


def test_region_is_probed_at_growing_intervals(
    outages: Outages, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outages.begin(REGION, "no answer")
    # A worker that has just started probes every region that is away.
    outages.probe_due(no_answer, none_unwanted)
    pauses = []
    for _ in range(5):
        due = away(outages).due
        assert due
        pauses.append(due - clock.now)
        clock.now = due - 1
        outages.probe_due(answers, none_unwanted)
        clock.now = due
        outages.probe_due(no_answer, none_unwanted)
    assert pauses == pytest.approx([30, 60, 100, 100, 100])
    assert len(warnings(caplog)) == 1


def test_end_of_an_outage_is_logged_once(
    store: Store, outages: Outages, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outages.begin(REGION, "no answer")
    clock.now += 20
    outages.probe_due(answers, none_unwanted)
    outages.probe_due(answers, none_unwanted)
    assert outages.away(REGION) is None
    assert Outages(store, LIMITS).all() == []
    assert f"{REGION} answers again after 20 s" in warnings(caplog)[1]
    assert len(warnings(caplog)) == 2


def test_flapping_region_is_probed_as_seldom_as_before(outages: Outages, clock: Clock) -> None:
    outages.begin(REGION, "no answer")
    outages.probe_due(no_answer, none_unwanted)
    outages.postpone(away(outages), "no answer")
    outages.end(away(outages))
    clock.now += 50
    outages.begin(REGION, "no answer")
    assert away(outages).due == pytest.approx(clock.now + 60)
    outages.end(away(outages))
    clock.now += 200
    outages.begin(REGION, "no answer")
    assert away(outages).due == pytest.approx(clock.now + 15)


def test_excluded_region_is_no_longer_waited_for_and_logged_once(
    store: Store, outages: Outages, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outages.begin(REGION, "no answer")
    restarted = Outages(store, LIMITS)
    asked: list[str] = []

    def probe(region: str) -> str:
        asked.append(region)
        return "no answer"

    for _ in range(5):
        restarted.probe_due(probe, lambda regions: dict.fromkeys(regions, "excluded"))
        clock.now += 1000
    assert asked == []
    assert away(restarted).due is None
    assert len(warnings(caplog)) == 2
    assert "is no longer waited for: excluded" in warnings(caplog)[1]


def test_region_that_is_no_longer_excluded_is_probed_again(store: Store, outages: Outages) -> None:
    outages.begin(REGION, "no answer")
    outages.stop_waiting(away(outages), "excluded")
    Outages(store, LIMITS).probe_due(answers, none_unwanted)
    assert outages.all() == []


def test_outage_that_lasts_is_logged_at_intervals(store, caplog, monkeypatch):
    outages = Outages(store, Limits())
    outages.begin("ap-east-1", "no answer")
    with store.engine.begin() as connection:
        connection.execute(sa.update(tables.outages).values(since=time.time() - 1000))
    for _ in range(3):
        outages.probe_due(lambda region: "no answer", lambda regions: {})
    said = [each.getMessage() for each in caplog.records if "has been unavailable" in each.message]
    assert len(said) == 1
    assert said[0].endswith("jobs continue without it (waiting for 17 min)")
