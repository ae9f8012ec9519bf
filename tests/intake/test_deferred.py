"""Entries that wait for an answer of Koji: when each is retried, and that none is lost."""

import pytest

from fedimg.intake.deferred import FIRST_PAUSE, DeferReason, DeferredEntries
from fedimg.store.store import Store

DATABASES = ("sqlite", "postgresql")


class Clock:
    """Stands in for time.time."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def deferred(store: Store) -> DeferredEntries:
    return DeferredEntries(store)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


def taken_in(deferred: DeferredEntries) -> list[str]:
    entries: list[str] = []
    deferred.requeue_due(entries.append)
    return entries


def test_entry_is_retried_once_after_each_pause(deferred, clock):
    deferred.postpone("build:5", DeferReason.STUMBLES, "KeyError")
    assert taken_in(deferred) == []
    clock.now += FIRST_PAUSE
    assert taken_in(deferred) == ["build:5"]
    assert taken_in(deferred) == []
    # The worker may have been killed: the entry is retried until there is an answer.
    clock.now += FIRST_PAUSE
    assert taken_in(deferred) == ["build:5"]
    deferred.settle("build:5")
    clock.now += FIRST_PAUSE
    assert taken_in(deferred) == []
    assert deferred.all() == []


@pytest.mark.parametrize(
    ("why", "longest"), [(DeferReason.STUMBLES, 4 * 3600), (DeferReason.SILENT, 600)]
)
def test_pauses_grow_up_to_a_limit(deferred, why, longest):
    pauses = [deferred.postpone("build:5", why, "no").pause for _ in range(12)]
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == longest
    assert pauses == sorted(pauses)


def test_another_reason_begins_with_a_short_pause(deferred):
    for _ in range(5):
        deferred.postpone("build:5", DeferReason.SILENT, "down")
    assert deferred.postpone("build:5", DeferReason.UNFINISHED, "open").pause == FIRST_PAUSE


def test_only_an_unfinished_entry_is_hopeless_after_ten_minutes(deferred):
    hopeless = [
        deferred.postpone("task:5", DeferReason.UNFINISHED, "open").hopeless for _ in range(6)
    ]
    assert hopeless == [False, False, False, False, True, True]
    assert not any(
        deferred.postpone("task:6", DeferReason.STUMBLES, "no").hopeless for _ in range(50)
    )
    assert not any(
        deferred.postpone("task:7", DeferReason.SILENT, "no").hopeless for _ in range(50)
    )


def test_hub_that_answers_again_ends_the_pauses(deferred, clock):
    for why in DeferReason:
        deferred.postpone(f"build:{len(why)}", why, "no")
    deferred.wake(["build"])
    assert taken_in(deferred) == [f"build:{len(DeferReason.SILENT)}"]


def test_clock_set_back_ends_the_pauses(deferred, clock):
    deferred.postpone("build:5", DeferReason.STUMBLES, "no")
    clock.now -= 86400
    assert taken_in(deferred) == ["build:5"]
