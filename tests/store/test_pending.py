from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from fedimg.config import Limits
from fedimg.intake.deferred import DeferReason, DeferredEntries
from fedimg.jobs.holds import Holds
from fedimg.jobs.outages import Outages
from fedimg.jobs.retries import RetrySchedule
from fedimg.progress import AWAY
from fedimg.store.pending import Pending, PendingRows
from fedimg.store.store import Store

NOTHING = Pending(entries=False, retries=False, outages=False, hold=False)


def deferred(store: Store) -> None:
    DeferredEntries(store).postpone("task:1", DeferReason.SILENT, "no answer")


def due_retry(store: Store) -> None:
    RetrySchedule(store).run("job", 1, Limits(retry_after=1e-6))


def run_of_away_region(store: Store) -> None:
    store.set_region("job", "eu-west-1", step=AWAY)
    RetrySchedule(store).run_when_back("job", 1, Limits())


def outage(store: Store) -> None:
    Outages(store, Limits()).begin("eu-west-1", "no answer")


def hold(store: Store) -> None:
    Holds(store).begin("somebody", "")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (deferred, "entries"),
        (due_retry, "retries"),
        (run_of_away_region, "retries"),
        (outage, "outages"),
        (hold, "hold"),
    ],
)
def test_row_is_pending(store: Store, make: Callable[[Store], None], name: str) -> None:
    pending = PendingRows(store, age=0)
    assert pending.current() == NOTHING
    make(store)
    assert {key for key, value in vars(pending.current()).items() if value} == {name}


def test_rows_that_are_over_or_not_due_are_not_pending(store: Store) -> None:
    holds, retries, outages = Holds(store), RetrySchedule(store), Outages(store, Limits())
    holds.begin("somebody", "")
    holds.release("somebody")
    retries.run("later", 1, Limits(retry_after=900))
    begun = retries.run("begun", 1, Limits(retry_after=1e-6))
    assert begun
    retries.begun(begun)
    outages.begin("eu-west-1", "no answer")
    outages.end(outages.all()[0])
    assert PendingRows(store, age=0).current() == NOTHING


def test_threads_share_one_query(store: Store) -> None:
    pending = PendingRows(store, age=60)
    queries: list[str] = []

    @event.listens_for(store.engine, "before_cursor_execute")
    def see(_connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        queries.append(statement)

    assert [pending.current() for _ in range(4)] == [NOTHING] * 4
    assert len(queries) == 1
