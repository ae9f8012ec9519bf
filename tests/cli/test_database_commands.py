"""`fedimg workers`, `drain`, and what `store migrate` and `store move` refuse.

Follows fedimg/cli/site_output.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedimg.store.store import Store
from fedimg.worker.lease import ALONE, FileLease
from fedimg.worker.registry import Registry
from tests.cli.conftest import Run


@pytest.fixture
def worker(store: Store) -> Iterator[Registry]:
    """Let this process be the worker."""
    lease = FileLease(store.directory)
    registry = Registry(store)
    registry.enter(ALONE, "1.0.0", 1)
    yield registry
    lease.release()


def states(run: Run) -> list[tuple[str, str, list[str]]]:
    result = run("workers", "--json")
    assert result.exit_code == 0, result.stderr
    return [(row["worker"], row["state"], row["jobs"]) for row in json.loads(result.stdout)]


def test_workers_are_listed_with_state_and_jobs(run: Run, worker: Registry) -> None:
    worker.begin(ALONE, "a-job", 1)
    assert states(run) == [(ALONE, "working", ["a-job"])]


def test_worker_that_has_died_is_listed_as_gone(run: Run, store: Store) -> None:
    Registry(store).enter(ALONE, "1.0.0", 1)
    assert states(run) == [(ALONE, "gone", [])]


def test_running_worker_is_drained(run: Run, worker: Registry) -> None:
    assert run("drain", ALONE).exit_code == 0
    assert states(run) == [(ALONE, "draining", [])]
    assert [row.draining for row in worker.all()] == [True]


def test_worker_that_is_not_running_is_not_drained(run: Run, store: Store) -> None:
    Registry(store).enter(ALONE, "1.0.0", 1)
    for name in (ALONE, "another"):
        refused = run("drain", name)
        assert refused.exit_code == 3
        assert f'cannot drain worker "{name}"' in refused.stderr
    assert [row.draining for row in Registry(store).all()] == [False]


@pytest.mark.parametrize("command", ["migrate", "move"])
def test_without_a_postgresql_nothing_is_prepared_or_moved(
    run: Run, store: Store, command: str
) -> None:
    refused = run("store", command)
    assert refused.exit_code == 2
    assert "`database` is not set in the configuration" in refused.stderr
    assert store.path.exists()


def test_missing_file_is_not_moved(config: Path, run: Run) -> None:
    config.write_text('state_directory = "state"\ndatabase = "postgresql://127.0.0.1:9/fedimg"\n')
    refused = run("store", "move")
    assert refused.exit_code == 2
    assert "there is no database in" in refused.stderr
