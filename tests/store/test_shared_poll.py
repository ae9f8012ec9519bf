"""Questions of several threads are asked by one statement, on both databases."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from fedimg.store import shared_poll
from fedimg.store.shared_poll import NOW, Question, SharedPoll
from fedimg.store.store import Store
from fedimg.store.tables import holds, outages

DATABASES = ["sqlite", "postgresql"]


class Clock:
    """Stands still until a test moves it on."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(shared_poll, "time", clock)
    return clock


def count(store: Store) -> list[str]:
    statements: list[str] = []

    @event.listens_for(store.engine, "before_cursor_execute")
    def see(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    return statements


def time_of(poll: SharedPoll, seconds: float) -> Question:
    """Return a question whose answer is the time at which it was asked."""
    return poll.question([NOW + 0.0], seconds)


def test_answer_is_read_anew_when_it_is_too_old(store: Store, clock: Clock) -> None:
    question = time_of(SharedPoll(store.engine), 2)
    assert question.answer() == (100.0,)
    clock.now += 1.75
    assert question.answer() == (100.0,)
    clock.now += 0.25
    assert question.answer() == (102.0,)


def test_who_asks_asks_for_others_by_the_same_statement(store: Store, clock: Clock) -> None:
    poll = SharedPoll(store.engine)
    often, rarely = time_of(poll, 0), time_of(poll, 2)
    statements = count(store)
    assert (often.answer(), rarely.answer()) == ((100.0,), (100.0,))
    clock.now += 0.75
    often.answer()
    assert rarely.answer() == (100.0,)
    clock.now += 0.25
    # Half of its time is over.
    often.answer()
    clock.now += 1.75
    assert rarely.answer() == (101.0,)
    assert len(statements) == 4


def test_question_that_nobody_asks_is_not_asked(store: Store, clock: Clock) -> None:
    poll = SharedPoll(store.engine)
    asked = time_of(poll, 0)
    never = poll.question([sa.literal_column("no_such_column")], 1)
    assert asked.answer() == (100.0,)
    with pytest.raises(sa.exc.DBAPIError):
        never.answer()
    clock.now += 5
    assert asked.answer() == (105.0,)


def test_question_for_the_moment_is_not_asked_along(store: Store, clock: Clock) -> None:
    poll = SharedPoll(store.engine)
    now, rarely = time_of(poll, 0), time_of(poll, 2)
    now.answer()
    statements = count(store)
    rarely.answer()
    assert len(statements) == 1
    assert now.last == (100.0,)
    clock.now += 0.5
    assert now.answer() == (100.5,)


def test_several_columns_go_to_their_own_questions(store: Store, clock: Clock) -> None:
    poll = SharedPoll(store.engine)
    first = poll.question([sa.exists(holds.c.since), sa.literal(1)], 1)
    second = poll.question([sa.literal(2), sa.exists(outages.c.region), sa.literal(3)], 1)
    assert second.answer() == (2, False, 3)
    clock.now += 0.6
    first.answer()
    clock.now += 0.5
    second.answer()
    assert (first.last, second.last) == ((False, 1), (2, False, 3))


def test_outdated_answer_is_read_anew(store: Store, clock: Clock) -> None:
    question = time_of(SharedPoll(store.engine), 60)
    question.answer()
    clock.now += 1
    question.outdate()
    assert question.answer() == (101.0,)


def test_transactions_of_others_begin_as_before(store: Store, clock: Clock) -> None:
    question = time_of(SharedPoll(store.engine), 0)
    question.answer()
    with store.engine.connect() as connection:
        connection.execute(store.insert(holds).values(since=1.0, by="me", reason=""))
        connection.rollback()
    assert question.answer() == (100.0,)
    with store.engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count(holds.c.since))).scalar_one() == 0


def test_answer_that_is_outdated_while_it_is_read_is_read_again(store: Store, clock: Clock) -> None:
    question = time_of(SharedPoll(store.engine), 2)
    statements = count(store)
    others: list[threading.Thread] = []

    @event.listens_for(store.engine, "after_cursor_execute", once=True)
    def change(*_: object) -> None:
        others.append(threading.Thread(target=question.outdate))
        others[0].start()
        # Without a lock it has ended by then; with one it waits for the reading to end.
        others[0].join(0.2)

    question.answer()
    others[0].join(240)
    question.answer()
    assert len(statements) == 2
