"""A worker watches the other ones and the requests to itself, on real databases."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from fedimg.images import Architecture, RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.store.shared_poll import SharedPoll
from fedimg.store.store import Store
from fedimg.worker import failover
from fedimg.worker.failover import Failover
from fedimg.worker.lease import FileLease
from fedimg.worker.registry import Registry
from fedimg.worker.shared_lease import SharedLease, connect, try_lock, worker_key
from tests.jobs.queue_rows import queued

IMAGE = RawImage.at("https://koji.example/a.x86_64.raw.xz", Architecture.X86_64, None)
RUN = f"fedimg.publish:{IMAGE.job}:1"
PATIENCE = 240.0


@dataclass
class Worker:
    """A worker's failover, and what it asked of the worker."""

    store: Store
    jobs: JobQueue
    lease: Any
    claims: bool = True
    shares: list[int] = field(default_factory=list)
    stopped: list[tuple[str, int]] = field(default_factory=list)
    claimed: int = 0
    drained: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.registry = Registry(self.store)
        self.registry.enter(self.lease.name, "1.0.0", 2)
        self.failover = Failover(
            self.store,
            self.jobs,
            self.registry,
            self.lease,
            SharedPoll(self.store.engine),
            share=self.shares.append,
            stop_runs=self._stop_runs,
            drain=self.drained.release,
            claim_new_runs=self._claim,
        )

    def _stop_runs(self, runs: Iterable[tuple[str, int]]) -> None:
        self.stopped += runs

    def _claim(self) -> bool:
        self.claimed += 1
        return self.claims

    def check(self) -> None:
        # As if the time until the next check had passed.
        self.failover._signs.outdate()
        assert self.failover.check_workers() == failover._PAUSE


def lost(reason: str) -> Any:
    raise AssertionError(reason)


@pytest.fixture
def alone(store: Store, jobs: JobQueue) -> Iterator[Worker]:
    """Return the only worker on a state directory."""
    lease = FileLease(store.directory)
    yield Worker(store, jobs, lease)
    lease.release()


@pytest.fixture
def shared(store: Store, jobs: JobQueue) -> Iterator[Worker]:
    """Return a worker on a PostgreSQL; the test is parametrized with `on_postgresql`."""
    lease = SharedLease(store.engine.url, 600, lost)
    yield Worker(store, jobs, lease)
    lease.release()


on_postgresql = pytest.mark.parametrize("store", ["postgresql"], indirect=True)


def begun_by(worker: Worker, name: str) -> None:
    """Let a worker of a name have begun a run."""
    worker.registry.enter(name, "1.0.0", 2)
    worker.jobs.submit(IMAGE)
    worker.registry.begin(name, IMAGE.job, 1)
    with worker.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE workflow_status SET status = 'PENDING', application_version = '2', "
            f"executor_id = '{name}'"
        )


def test_own_runs_are_stopped_when_another_worker_asks(alone: Worker) -> None:
    alone.registry.begin(alone.lease.name, "job", 3)
    alone.check()
    assert alone.stopped == []
    assert alone.registry.stop_elsewhere("another", "job", 3)
    alone.check()
    assert alone.stopped == [("job", 3)]


def test_drain_is_obeyed_once(alone: Worker) -> None:
    alone.check()
    assert not alone.drained.acquire(blocking=False)
    alone.registry.drain(alone.lease.name)
    alone.check()
    alone.check()
    assert alone.drained.acquire(timeout=PATIENCE)
    assert not alone.drained.acquire(timeout=0.2)


def test_new_runs_are_claimed_unless_a_newer_version_runs(alone: Worker) -> None:
    alone.check()
    assert alone.claimed == 1
    # The same workers: not at each check.
    alone.check()
    assert alone.claimed == 1
    alone.registry.enter("older", "0.9.0", 1)
    alone.check()
    assert alone.claimed == 2
    alone.registry.enter("newer", "1.1.0", 3)
    alone.check()
    assert alone.claimed == 2


def test_draining_worker_claims_nothing(alone: Worker) -> None:
    alone.registry.drain(alone.lease.name)
    alone.check()
    assert alone.claimed == 0


def test_failed_claim_is_reported_once(alone: Worker, caplog: pytest.LogCaptureFixture) -> None:
    alone.claims = False
    for number in range(3):
        # The set of workers is another each time, so that the claim is repeated.
        alone.registry.enter(f"older-{number}", "0.9.0", 1)
        alone.check()
    assert alone.claimed == 3
    assert caplog.text.count("no worker takes new jobs") == 1


def test_orphans_are_reported_when_the_workers_change(
    alone: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    alone.jobs.submit(IMAGE)
    with alone.store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE workflow_status SET application_version = '1'")
    alone.check()
    alone.check()
    assert caplog.text.count(f"{RUN} were started by an incompatible fedimg version") == 1
    alone.registry.enter("older", "0.9.0", 1)
    alone.check()
    alone.registry.leave("older")
    alone.check()
    assert caplog.text.count("incompatible fedimg version") == 2


def test_workers_are_read_when_there_is_a_sign_of_a_change(alone: Worker) -> None:
    alone.registry.begin(alone.lease.name, "job", 1)
    alone.check()
    statements: list[str] = []

    @event.listens_for(alone.store.engine, "before_cursor_execute")
    def see(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    alone.check()
    assert len(statements) == 1
    for change in (
        lambda: alone.registry.enter("another", "1.0.0", 2),
        # One comes as another goes.
        lambda: (alone.registry.leave("another"), alone.registry.enter("third", "1.0.0", 2)),
        lambda: alone.registry.drain("third"),
        lambda: alone.registry.leave("third"),
        lambda: alone.registry.stop_elsewhere("third", "job", 1),
    ):
        change()
        statements.clear()
        alone.check()
        assert len(statements) >= 3
    # As long as there is one, for which run it is may have changed.
    statements.clear()
    alone.check()
    assert len(statements) == 3


@on_postgresql
def test_runs_of_a_dead_worker_go_back_into_the_queue(
    shared: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    begun_by(shared, "dead")
    shared.check()
    assert queued(shared.store)[RUN][1] == "ENQUEUED"
    assert [each.name for each in shared.registry.all()] == [shared.lease.name]
    assert f"worker dead has died; put back into the queues: {RUN}" in caplog.text
    assert shared.shares == [1]


@on_postgresql
def test_running_worker_keeps_its_runs_and_counts_for_the_share(shared: Worker) -> None:
    begun_by(shared, "other")
    with connect(shared.store.engine.url, "another worker") as connection:
        assert try_lock(connection, worker_key("other"))
        shared.check()
        assert queued(shared.store)[RUN][1] == "PENDING"
        assert shared.shares == [2]
    # Its connection is gone, and so is its lock, as soon as the server has noticed.
    deadline = time.monotonic() + PATIENCE
    while queued(shared.store)[RUN][1] != "ENQUEUED":
        assert time.monotonic() < deadline
        shared.check()


@on_postgresql
def test_take_over_that_fails_is_repeated(
    shared: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun_by(shared, "dead")

    def refuse(*_arguments: object) -> Any:
        raise psycopg.OperationalError("too many connections")

    with monkeypatch.context() as patched:
        patched.setattr(failover, "connect", refuse)
        shared.check()
    assert "cannot take over the jobs of worker dead, retries in 1 s" in caplog.text
    assert queued(shared.store)[RUN][1] == "PENDING"
    shared.check()
    assert queued(shared.store)[RUN][1] == "ENQUEUED"
