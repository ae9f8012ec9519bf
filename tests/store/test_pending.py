import time
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
from fedimg.store.changes import WITHDRAW
from fedimg.store.parameters import Parameters, Wanted
from fedimg.store.pending import Pending, PendingRows
from fedimg.store.shared_poll import SharedPoll
from fedimg.store.store import Store
from fedimg.store.tables import changes

NOTHING = Pending(**dict.fromkeys(Pending.__dataclass_fields__, False))


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


def change(store: Store) -> None:
    values = {"job": "job", "region": "eu-west-1", "what": WITHDRAW, "at": 1.0, "due": 1.0}
    with store.engine.begin() as connection:
        connection.execute(sa.insert(changes).values(values | {"tries": 0}))


def parameter(store: Store) -> None:
    wanted = {("eu-west-1", "/latest"): Wanted("ami-1", "image", "series")}
    Parameters(store).want(wanted, advanced=False, doubt_seconds=0)


def message(store: Store) -> None:
    store.announce("key", "image.upload", {})


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (deferred, "entries"),
        (due_retry, "retries"),
        (run_of_away_region, "retries"),
        (outage, "outages"),
        (hold, "hold"),
        (change, "changes"),
        (parameter, "parameters"),
        (message, "messages"),
    ],
)
def test_row_is_pending(store: Store, make: Callable[[Store], None], name: str) -> None:
    pending = PendingRows(SharedPoll(store.engine), age=0)
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
    change(store)
    with store.engine.begin() as connection:
        connection.execute(sa.update(changes).values(due=time.time() + 900))
    parameter(store)
    Parameters(store).settled(Parameters(store).all()[0])
    message(store)
    store.delivered([store.unannounced()[0].id], "fedmsg", ["fedmsg"])
    assert PendingRows(SharedPoll(store.engine), age=0).current() == NOTHING


def test_threads_share_one_query(store: Store) -> None:
    pending = PendingRows(SharedPoll(store.engine), age=60)
    queries: list[str] = []

    @event.listens_for(store.engine, "before_cursor_execute")
    def see(_connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        queries.append(statement)

    assert [pending.current() for _ in range(4)] == [NOTHING] * 4
    assert len(queries) == 1
