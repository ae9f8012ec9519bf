"""The reasons for which no worker continues the active jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from fedimg.images import Architecture, RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.store.rows import JobRow
from fedimg.store.store import Store
from fedimg.worker.idle_reasons import idle_reasons
from fedimg.worker.lease import ALONE, FileLease
from fedimg.worker.registry import Registry

IMAGE = RawImage.at("https://koji.example/a.x86_64.raw.xz", Architecture.X86_64, None)


@pytest.fixture
def registry(store: Store) -> Iterator[Registry]:
    """Let this process be the worker."""
    with contextlib.closing(_Released(FileLease(store.directory))):
        registry = Registry(store)
        registry.enter(ALONE, "1.0.0", 1)
        yield registry


class _Released:
    def __init__(self, lease: FileLease) -> None:
        self._lease = lease

    def close(self) -> None:
        self._lease.release()


def running(store: Store, jobs: JobQueue, version: str = "1") -> list[JobRow]:
    """Return a job whose run a worker of some version of the steps has begun."""
    jobs.submit(IMAGE)
    store.begin(IMAGE.job, 1)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE workflow_status SET application_version = '{version}'")
    return store.jobs()


def test_without_a_worker_the_command_that_starts_one_is_named(store: Store) -> None:
    (reason,) = idle_reasons(store)
    assert reason.startswith("no worker is running")
    assert "systemctl start fedimg-worker" in reason


def test_registered_worker_without_its_lease_is_not_running(store: Store) -> None:
    Registry(store).enter(ALONE, "1.0.0", 1)
    assert len(idle_reasons(store)) == 1


@pytest.mark.usefixtures("registry")
def test_queued_jobs_of_a_running_worker_are_not_idle(store: Store, jobs: JobQueue) -> None:
    jobs.submit(IMAGE)
    assert idle_reasons(store, store.jobs()) == []


def test_job_that_a_worker_has_begun_is_not_idle(
    store: Store, jobs: JobQueue, registry: Registry
) -> None:
    # Whatever version the row names: the worker has the run.
    active = running(store, jobs, version="2")
    registry.begin(ALONE, IMAGE.job, 1)
    assert idle_reasons(store, active) == []


@pytest.mark.usefixtures("registry")
def test_job_of_an_incompatible_version_is_named(store: Store, jobs: JobQueue) -> None:
    (reason,) = idle_reasons(store, running(store, jobs, version="2"))
    assert f"fedimg.publish:{IMAGE.job}:1" in reason
    assert "incompatible fedimg version" in reason


@pytest.mark.usefixtures("registry")
def test_job_that_the_worker_is_about_to_take_again_is_not_idle(
    store: Store, jobs: JobQueue
) -> None:
    assert idle_reasons(store, running(store, jobs)) == []
