"""One thread takes runs from all queues, and an idle worker asks the database little."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS, _core
from sqlalchemy import event

from fedimg.jobs.queue import JOBS_QUEUE, JobQueue
from fedimg.store.shared_poll import Question, SharedPoll
from fedimg.store.store import Store
from fedimg.worker.queue_poll import THREAD, QueuePoll

both = pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
DEADLINE = 240.0


@contextmanager
def running(store: Store, pauses: Callable[[], object] = lambda: None) -> Iterator[list[str]]:
    """Serve the queue of jobs, two at once; yield the runs that were started, by their names."""
    started: list[str] = []

    def wait(stop: threading.Event) -> None:
        pauses()
        stop.wait(0.05)

    QueuePoll((JOBS_QUEUE,), SharedPoll(JobQueue(store).engine), wait).stand_in()
    DBOS(
        config={
            "name": "fedimg",
            "system_database_url": store.queue_url,
            "system_database_engine": store.engine,
            "application_version": "1",
            "executor_id": "test",
            "log_level": "ERROR",
        }
    )

    @DBOS.workflow(name="test.run")
    def run(name: str) -> None:
        started.append(name)
        while not over.is_set():
            time.sleep(0.02)

    over = threading.Event()
    DBOS.launch()
    DBOS.register_queue(JOBS_QUEUE, worker_concurrency=2)
    try:
        yield started
    finally:
        over.set()
        DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=5)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@both
def test_run_starts_and_no_more_than_the_queue_allows(store: Store, jobs: JobQueue) -> None:
    with running(store) as started:
        for name in "abc":
            jobs._client.enqueue({"queue_name": JOBS_QUEUE, "workflow_name": "test.run"}, name)
        until(lambda: len(started) == 2)
        polls = Counter[str]()
        count_statements(store, polls)
        until(lambda: polls[THREAD] > 10)
        # The third waits for a place; it is taken by the next worker.
        assert sorted(started) == ["a", "b"]


@both
def test_idle_queues_are_asked_for_by_one_statement(store: Store) -> None:
    looks: list[None] = []
    with running(store, lambda: looks.append(None)):
        until(lambda: len(looks) > 2)
        statements = Counter[str]()
        count_statements(store, statements)
        before = len(looks)
        until(lambda: len(looks) >= before + 20)
        asked, looked = statements[THREAD], len(looks) - before
    assert asked <= looked + 2
    # DBOS's own polls of queues, delays and deadlines would be further threads.
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith("queue-worker-") for name in names)


@both
def test_error_of_the_database_is_passed_over(
    store: Store, jobs: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[None] = []
    answer = Question.answer

    def fail_once(self: Question[Any]) -> Any:
        if not failed:
            failed.append(None)
            raise sa.exc.OperationalError("SELECT", {}, Exception("gone"))
        return answer(self)

    monkeypatch.setattr(Question, "answer", fail_once)
    with running(store) as started:
        jobs._client.enqueue({"queue_name": JOBS_QUEUE, "workflow_name": "test.run"}, "a")
        until(lambda: started == ["a"])
    assert failed


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_race_with_another_worker_is_tried_again_without_a_word(
    store: Store,
    jobs: JobQueue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    raced: list[None] = []
    take = QueuePoll._take

    def race_once(self: QueuePoll, dbos: Any, name: str) -> None:
        if not raced:
            raced.append(None)
            with store.engine.connect() as connection:
                # As PostgreSQL says it to whoever comes second.
                connection.execute(
                    sa.text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"),
                )
        take(self, dbos, name)

    monkeypatch.setattr(QueuePoll, "_take", race_once)
    with running(store) as started:
        jobs._client.enqueue({"queue_name": JOBS_QUEUE, "workflow_name": "test.run"}, "a")
        until(lambda: started == ["a"])
    assert raced
    assert not [each for each in caplog.records if each.name == "fedimg.worker.queue_poll"]


@both
def test_run_that_could_not_be_started_goes_back_into_its_queue(
    store: Store, jobs: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[None] = []
    execute = _core.execute_dequeued_workflow

    def fail_once(*arguments: Any) -> Any:
        if not failed:
            failed.append(None)
            raise RuntimeError("a deadlock was found")
        return execute(*arguments)

    monkeypatch.setattr(_core, "execute_dequeued_workflow", fail_once)
    with running(store) as started:
        jobs._client.enqueue({"queue_name": JOBS_QUEUE, "workflow_name": "test.run"}, "a")
        until(lambda: started == ["a"])
    assert failed


def count_statements(store: Store, counted: Counter[str]) -> None:
    @event.listens_for(store.engine, "after_cursor_execute")
    def count(*_arguments: object) -> None:
        counted[threading.current_thread().name] += 1
