"""The periodic tasks of a worker, in their threads, on a database with work for them.

Follows fedimg/process/periodic.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from fedimg.aws.client.clients import Clients
from fedimg.config import Limits, Settings
from fedimg.images import Architecture, RawImage
from fedimg.intake.deferred import DeferReason, DeferredEntries
from fedimg.jobs.holds import Holds
from fedimg.jobs.queue import JobQueue
from fedimg.jobs.retries import RetrySchedule
from fedimg.store.heartbeats import WORKER
from fedimg.store.pending import PendingRows
from fedimg.store.shared_poll import SharedPoll
from fedimg.store.store import Store
from fedimg.store.tables import deferred_entries, retries
from fedimg.worker.background_tasks import BackgroundTasks

IMAGE = RawImage.at("https://koji.example/a.x86_64.raw.xz", Architecture.X86_64, None)
PATIENCE = 240.0


@dataclass
class Tasks:
    """The running tasks of the worker `one`."""

    store: Store
    jobs: JobQueue
    leads: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def tasks(store: Store, jobs: JobQueue) -> Iterator[Tasks]:
    """Run the tasks of a worker that does not lead yet; no server listens for Koji."""
    settings = Settings.model_validate({"koji": {"hub": "http://127.0.0.1:9/kojihub"}})
    stop = threading.Event()
    tasks = Tasks(store, jobs)
    pending = PendingRows(SharedPoll(store.engine))
    background = BackgroundTasks(settings, store, jobs, Clients(), stop, "one", pending)
    started = background.periodic(tasks.leads)
    for task in started:
        task.start()
    yield tasks
    stop.set()
    for task in started:
        task.join(PATIENCE)


def until(fact: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE} s"
        time.sleep(0.05)


def works(store: Store) -> bool:
    return any(beat.name == "one" and beat.fresh for beat in store.heartbeats(WORKER))


def test_deferred_entry_is_queued_by_the_leader_when_it_is_due(tasks: Tasks) -> None:
    DeferredEntries(tasks.store).postpone("build:5", DeferReason.SILENT, "no answer")
    with tasks.store.engine.begin() as connection:
        connection.execute(sa.update(deferred_entries).values(asked=0.0))
    # Every worker says that it works; this one does nothing else before it leads.
    until(lambda: works(tasks.store), "the heartbeat")
    assert tasks.jobs.entries() == []
    tasks.leads.set()
    until(lambda: tasks.jobs.entries() == ["build:5"], "the entry in the queue")


def test_due_retry_is_begun_by_the_leader(tasks: Tasks) -> None:
    tasks.jobs.submit(IMAGE)
    tasks.store.begin(IMAGE.job, 1)
    tasks.store.end(IMAGE.job, 1, "failed", "EC2 is away")
    RetrySchedule(tasks.store).run_when_back(IMAGE.job, 1, Limits())
    with tasks.store.engine.begin() as connection:
        connection.execute(sa.update(retries).values(due=0.0))
    tasks.leads.set()

    def second_run() -> bool:
        row = tasks.store.job(IMAGE.job)
        return row is not None and (row.run, row.state) == (2, "queued")

    until(second_run, "the second run in the queue")


def test_hold_is_logged_with_the_command_that_ends_it_and_so_is_its_end(
    tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    Holds(tasks.store).begin("ann", "release day")
    until(lambda: "'fedimg release' ends the hold" in caplog.text, "the hold in the log")
    assert "by ann: release day" in caplog.text
    Holds(tasks.store).release("ann")
    until(lambda: "publishing is no longer held" in caplog.text, "its end in the log")
