"""WaitLog: a wait is one warning at its beginning, one at intervals, one at its end."""

import logging

import pytest

from fedimg.process import wait_log
from fedimg.process.wait_log import WaitLog


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_wait_is_logged_at_its_beginning_at_intervals_and_at_its_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(wait_log, "time", clock)
    log = WaitLog(logging.getLogger("tests"), interval=600)
    for second in range(0, 1300, 10):
        clock.now = 100.0 + second
        log.waiting("a", "EC2 does not answer", job="j", region="r")
    log.over("a", "EC2 answers again", job="j")
    log.over("a", "EC2 answers again", job="j")
    assert [(each.levelname, each.message) for each in caplog.records] == [
        ("WARNING", "EC2 does not answer"),
        ("WARNING", "EC2 does not answer (waiting for 10 min)"),
        ("WARNING", "EC2 does not answer (waiting for 20 min)"),
        ("WARNING", "EC2 answers again (after 1290 s)"),
    ]
    assert vars(caplog.records[0])["job"] == "j"


def test_wait_that_was_not_logged_has_no_end(caplog: pytest.LogCaptureFixture) -> None:
    WaitLog(logging.getLogger("tests")).over("a", "again")
    assert caplog.records == []
