"""The rows of workers and of their runs, on both kinds of database."""

import os
import socket

import sqlalchemy as sa

from fedimg.store.store import Store
from fedimg.store.tables import workers
from fedimg.worker.registry import RegisteredWorker, Registry

DATABASES = ("sqlite", "postgresql")


def entered(store: Store, *names: str) -> Registry:
    registry = Registry(store)
    for name in names:
        registry.enter(name, "1.0.0", 1)
    return registry


def runs_of(registry: Registry, name: str) -> list[tuple[str, int]]:
    (worker,) = [each for each in registry.all() if each.name == name]
    return worker.jobs


def test_entered_worker_is_this_process_and_has_no_runs(store: Store) -> None:
    (worker,) = entered(store, "one").all()
    assert worker == RegisteredWorker(
        name="one",
        host=socket.gethostname(),
        pid=os.getpid(),
        version="1.0.0",
        started=worker.started,
        draining=False,
        steps=1,
    )


def test_worker_that_starts_again_has_lost_runs_and_request_to_drain(store: Store) -> None:
    registry = entered(store, "one")
    registry.begin("one", "job", 1)
    assert registry.drain("one")
    registry.enter("one", "1.0.0", 1)
    (worker,) = registry.all()
    assert (worker.jobs, worker.draining) == ([], False)


def test_worker_of_a_version_that_registered_no_steps_knows_the_first(store: Store) -> None:
    registry = entered(store, "one")
    with store.engine.begin() as connection:
        connection.execute(sa.update(workers).values(steps=None))
    assert [worker.knows for worker in registry.all()] == [1]


def test_workers_are_sorted_and_have_their_own_runs(store: Store) -> None:
    registry = entered(store, "two", "one")
    registry.begin("two", "b", 1)
    registry.begin("two", "a", 3)
    assert [(worker.name, worker.jobs) for worker in registry.all()] == [
        ("one", []),
        ("two", [("a", 3), ("b", 1)]),
    ]


def test_run_that_another_worker_took_over_is_ended_by_that_one_alone(store: Store) -> None:
    registry = entered(store, "one", "two")
    registry.begin("one", "job", 1)
    registry.begin("two", "job", 1)
    registry.end("one", "job", 1)
    assert runs_of(registry, "one") == []
    assert runs_of(registry, "two") == [("job", 1)]
    registry.end("two", "job", 1)
    assert runs_of(registry, "two") == []


def test_run_of_another_worker_is_requested_to_stop(store: Store) -> None:
    registry = entered(store, "one", "two")
    registry.begin("two", "job", 1)
    registry.begin("two", "other", 1)
    assert not registry.stop_elsewhere("two", "job", 1)
    assert not registry.stop_elsewhere("one", "job", 2)
    assert registry.stop_elsewhere("one", "job", 1)
    assert [worker.to_stop for worker in registry.all()] == [[], [("job", 1)]]


def test_worker_that_takes_a_run_over_does_not_stop_it(store: Store) -> None:
    registry = entered(store, "one", "two")
    registry.begin("two", "job", 1)
    assert registry.stop_elsewhere("one", "job", 1)
    registry.begin("one", "job", 1)
    assert [worker.to_stop for worker in registry.all()] == [[], []]


def test_only_a_registered_worker_can_be_drained(store: Store) -> None:
    registry = entered(store, "one", "two")
    assert not registry.drain("three")
    assert registry.drain("two")
    assert [worker.draining for worker in registry.all()] == [False, True]


def test_worker_that_leaves_has_no_row_and_no_runs(store: Store) -> None:
    registry = entered(store, "one", "two")
    registry.begin("one", "job", 1)
    registry.begin("two", "other", 1)
    registry.leave("one")
    assert [(worker.name, worker.jobs) for worker in registry.all()] == [("two", [("other", 1)])]


def test_runs_of_a_dead_worker_are_dropped_and_its_row_stays(store: Store) -> None:
    registry = entered(store, "one")
    registry.begin("one", "job", 1)
    registry.drop_runs("one")
    assert [(worker.name, worker.jobs) for worker in registry.all()] == [("one", [])]
