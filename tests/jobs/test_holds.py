"""Holds: one at a time, with who and when, and jobs that wait for their end."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from fedimg.exceptions import Cancelled
from fedimg.jobs.holds import Holds
from fedimg.store.store import Store
from fedimg.store.tables import holds

DATABASES = ("sqlite", "postgresql")


def test_hold_names_its_beginning_author_and_reason(store: Store) -> None:
    assert Holds(store).current() is None
    hold, new = Holds(store).begin("ann@hub", "the release is\nat noon")
    assert new
    assert Holds(store).current() == hold
    assert (hold.by, hold.reason) == ("ann@hub", "the release is at noon")
    assert str(hold).startswith("publishing has been held since 2")
    assert str(hold).endswith("Z by ann@hub: the release is at noon")


def test_second_hold_changes_nothing(store: Store) -> None:
    first, _ = Holds(store).begin("ann", "one")
    assert Holds(store).begin("bob", "two") == (first, False)


def test_only_one_of_two_simultaneous_holds_is_new(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        begun = list(pool.map(lambda n: Holds(store).begin(f"{n}", ""), range(8)))
    assert [new for _, new in begun].count(True) == 1
    assert len({hold for hold, _ in begun}) == 1


def test_released_hold_stays_recorded_with_who_released_it(store: Store) -> None:
    hold, _ = Holds(store).begin("ann", "")
    assert Holds(store).release("bob") == hold
    assert Holds(store).release("bob") is None
    assert Holds(store).current() is None
    with store.engine.connect() as connection:
        (row,) = connection.execute(sa.select(holds)).all()
    assert (row.by, row.released_by) == ("ann", "bob")
    assert row.released >= row.since


def test_job_waits_until_the_release_by_another_process(store: Store) -> None:
    Holds(store).begin("ann", "")
    waiting = Holds(store)
    threading.Timer(0.3, Holds(store).release, ["bob"]).start()
    waiting.wait_for_release(threading.Event())
    assert Holds(store).current() is None


def test_cancelled_job_and_stopping_worker_end_the_wait(store: Store) -> None:
    Holds(store).begin("ann", "")
    done = threading.Event()
    done.set()
    with pytest.raises(Cancelled):
        Holds(store).wait_for_release(done)
    with pytest.raises(Cancelled):
        Holds(store, stopping=done).wait_for_release(threading.Event())
