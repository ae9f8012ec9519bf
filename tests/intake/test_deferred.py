"""Entries that wait for an answer of Koji: when each is asked for again, and that none is lost."""

import pytest

from fedimg.intake.deferred import FIRST_PAUSE, DeferReason, DeferredEntries
from fedimg.store.store import Store

#: What is remembered is the same in both.
DATABASES = ("sqlite", "postgresql")


class Clock:
    """Stands in for time.time."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def later(store: Store) -> DeferredEntries:
    return DeferredEntries(store)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


def asked(later: DeferredEntries) -> list[str]:
    found: list[str] = []
    later.take_in(found.append)
    return found


def test_entry_is_asked_for_after_its_pause_and_once_a_pause(later, clock):
    later.postpone("build:5", DeferReason.STUMBLES, "KeyError")
    assert asked(later) == []
    clock.now += FIRST_PAUSE
    assert asked(later) == ["build:5"]
    assert asked(later) == []
    # Whoever asked may have been killed: it is asked for until there is an answer.
    clock.now += FIRST_PAUSE
    assert asked(later) == ["build:5"]
    later.settle("build:5")
    clock.now += FIRST_PAUSE
    assert asked(later) == []
    assert later.all() == []


@pytest.mark.parametrize(
    ("why", "longest"), [(DeferReason.STUMBLES, 4 * 3600), (DeferReason.SILENT, 600)]
)
def test_pauses_grow_up_to_a_limit(later, why, longest):
    pauses = [later.postpone("build:5", why, "no").pause for _ in range(12)]
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == longest
    assert pauses == sorted(pauses)


def test_another_reason_begins_with_a_short_pause(later):
    for _ in range(5):
        later.postpone("build:5", DeferReason.SILENT, "down")
    assert later.postpone("build:5", DeferReason.UNFINISHED, "open").pause == FIRST_PAUSE


def test_what_never_finishes_is_hopeless_after_ten_minutes_and_nothing_else_is(later):
    told = [later.postpone("task:5", DeferReason.UNFINISHED, "open").hopeless for _ in range(6)]
    assert told == [False, False, False, False, True, True]
    assert not any(later.postpone("task:6", DeferReason.STUMBLES, "no").hopeless for _ in range(50))
    assert not any(later.postpone("task:7", DeferReason.SILENT, "no").hopeless for _ in range(50))


def test_hub_that_speaks_again_is_asked_at_once(later, clock):
    for why in DeferReason:
        later.postpone(f"build:{len(why)}", why, "no")
    later.wake(["build"])
    assert asked(later) == [f"build:{len(DeferReason.SILENT)}"]


def test_our_clock_set_back_ends_the_pauses(later, clock):
    later.postpone("build:5", DeferReason.STUMBLES, "no")
    clock.now -= 86400
    assert asked(later) == ["build:5"]
