"""Queued runs that only a worker of another version continues."""

from dataclasses import replace

import pytest

from fedimg.images import Architecture, RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.store.store import Store
from fedimg.worker.orphans import orphaned_runs, orphans_text
from fedimg.worker.registry import RegisteredWorker

IMAGE = RawImage.at("https://koji.example/a.x86_64.raw.xz", Architecture.X86_64, None)
RUN = f"fedimg.publish:{IMAGE.job}:1"
ONE = RegisteredWorker("one", "host", 1, "1.0.0", 0.0, draining=False, steps=1)
TWO = replace(ONE, name="two", steps=2)


@pytest.fixture
def begun_by_version_2(store: Store, jobs: JobQueue) -> None:
    """Queue a run that a worker of the second version of the steps began."""
    jobs.submit(IMAGE)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE workflow_status SET application_version = '2'")


def test_run_that_has_not_begun_is_no_orphan(jobs: JobQueue) -> None:
    jobs.submit(IMAGE)
    assert orphaned_runs(jobs, [ONE]) == []


@pytest.mark.usefixtures("begun_by_version_2")
def test_run_is_an_orphan_until_a_worker_of_its_version_is_running(jobs: JobQueue) -> None:
    assert orphaned_runs(jobs, []) == [RUN]
    assert orphaned_runs(jobs, [ONE]) == [RUN]
    assert orphaned_runs(jobs, [ONE, TWO]) == []


@pytest.mark.usefixtures("begun_by_version_2")
def test_worker_that_is_drained_takes_no_orphan(jobs: JobQueue) -> None:
    assert orphaned_runs(jobs, [ONE, replace(TWO, draining=True)]) == [RUN]


def test_message_names_the_runs_and_the_remedy() -> None:
    text = orphans_text(["fedimg.publish:a:1", "fedimg.clean:b:2"])
    assert text.startswith("fedimg.publish:a:1, fedimg.clean:b:2 were started by an incompatible")
    assert "start one" in text
