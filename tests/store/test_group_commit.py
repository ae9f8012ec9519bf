"""Many threads that write to one real database at once."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from fedimg.store.group_commit import GroupCommit

WRITERS = 16
table = sa.Table("t", sa.MetaData(), sa.Column("n", sa.Integer, primary_key=True))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'db'}")
    table.metadata.create_all(engine)
    yield engine
    engine.dispose()


def numbers(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return sorted(connection.scalars(sa.select(table.c.n)))


def insert(n: int) -> Callable[[sa.Connection], int]:
    """Return what inserts a number, and returns it."""

    def action(connection: sa.Connection) -> int:
        connection.execute(sa.insert(table).values(n=n))
        return n

    return action


class SlowFirstCommit:
    """Delays the first commit until all writers wait."""

    def __init__(self, engine: sa.Engine, group: GroupCommit) -> None:
        self.commits = 0
        self._group = group
        event.listen(engine, "commit", self._commit)

    def _commit(self, connection: sa.Connection) -> None:
        self.commits += 1
        if self.commits == 1:
            pause = threading.Event()
            while len(self._group._waiting) < WRITERS - 1:
                pause.wait(0.01)


def test_writes_during_a_commit_share_the_next_commit(engine: sa.Engine) -> None:
    group = GroupCommit(engine)
    slow = SlowFirstCommit(engine, group)
    with ThreadPoolExecutor(WRITERS) as threads:
        results = list(threads.map(lambda n: group.run(insert(n)), range(WRITERS)))
    assert results == list(range(WRITERS))
    assert slow.commits == 2
    assert numbers(engine) == list(range(WRITERS))


def test_failed_write_raises_in_its_own_thread_only(engine: sa.Engine) -> None:
    group = GroupCommit(engine)
    SlowFirstCommit(engine, group)
    # Number 0 twice, in any order.
    values = [*range(WRITERS - 1), 0]
    with ThreadPoolExecutor(WRITERS) as threads:
        futures = [threads.submit(group.run, insert(n)) for n in values]
    errors = [error for future in futures if (error := future.exception())]
    assert [type(error) for error in errors] == [sa.exc.IntegrityError]
    assert numbers(engine) == list(range(WRITERS - 1))


def test_write_is_committed_when_it_returns(engine: sa.Engine) -> None:
    group = GroupCommit(engine)
    for n in range(3):
        group.run(insert(n))
        assert numbers(engine) == list(range(n + 1))


def test_begin_is_called_first_in_each_transaction(engine: sa.Engine) -> None:
    order: list[str] = []
    group = GroupCommit(engine, lambda connection: order.append("begin"))
    slow = SlowFirstCommit(engine, group)

    def action(connection: sa.Connection) -> None:
        order.append("action")

    with ThreadPoolExecutor(WRITERS) as threads:
        for future in [threads.submit(group.run, action) for _ in range(WRITERS)]:
            future.result()
    assert slow.commits == 2
    assert order == ["begin", "action", "begin", *["action"] * (WRITERS - 1)]
