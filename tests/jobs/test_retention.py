"""Deletion of old steps and message bodies, with a real worker's queue."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedimg.config import FEDMSG
from fedimg.images import Architecture, RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.jobs.retention import forget
from fedimg.store.store import Store

URL = "https://koji.example.org/Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"
IMAGE = RawImage(URL, Architecture.X86_64, "Fedora-Cloud-Base-28-1.1", "build-7")
DAY = 86400.0

#: Executes the queued entries in one step each, and stops while the job runs.
WORKER = """
import sys, time
from pathlib import Path

from dbos import DBOS

from fedimg.jobs.durable_steps import DurableSteps, Gate
from fedimg.jobs.queue import INTAKE, PUBLISH, JobQueue
from fedimg.store.shared_poll import SharedPoll
from fedimg.store.store import Store
from fedimg.worker import executor

store = Store(Path(sys.argv[1]))


class Nothing:
    def resolve(self, entry):
        DurableSteps(Gate(print)).run("ask", lambda: [])
        return ["a job"]

    def publish(self, job, run):
        time.sleep(60)

    clean = withdraw = restore = deprecate = disable = delete = repair = share = publish


nothing = Nothing()
queue = JobQueue(store)
poll = SharedPoll(queue.engine)
executor.serve(store, poll, "worker", *[nothing] * 6, 1)
client = queue._client
while client.list_workflows(name=INTAKE, status=["ENQUEUED", "PENDING"]):
    time.sleep(0.05)
while not client.list_workflows(name=PUBLISH, status="PENDING"):
    time.sleep(0.05)
import os
os._exit(0)
"""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[tuple[Store, JobQueue]]:
    store = Store(tmp_path / "state")
    queue = JobQueue(store)
    yield store, queue
    queue.close()
    store.close()


def rows(store: Store, table: str) -> int:
    with sqlite3.connect(store.path) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.mark.process
def test_steps_of_ended_workflows_are_deleted_and_of_live_ones_kept(
    state: tuple[Store, JobQueue],
) -> None:
    store, queue = state
    for entry in ("build:1", "build:2"):
        queue.enqueue_entry(entry)
    job = queue.submit(IMAGE)
    assert job
    subprocess.run([sys.executable, "-c", WORKER, store.directory], check=True)
    assert rows(store, "operation_outputs") == 2

    forget(store, queue, 1)
    assert rows(store, "operation_outputs") == 2
    # Two days pass.
    with sqlite3.connect(store.path) as database:
        database.execute(
            f"UPDATE workflow_status SET completed_at = completed_at - {2 * DAY * 1000}"
        )
    forget(store, queue, 1)
    assert rows(store, "operation_outputs") == 0
    with sqlite3.connect(store.path) as database:
        left = database.execute("SELECT workflow_uuid FROM workflow_status").fetchall()
    assert left == [(f"fedimg.publish:{job}:1",)]
    assert [row.job for row in store.jobs()] == [job]
    # An entry announced once more is queued, and its images still have jobs.
    queue.enqueue_entry("build:1")
    assert queue.submit(IMAGE) is None


def test_body_of_an_announced_message_is_deleted_and_never_announced_again(
    state: tuple[Store, JobQueue],
) -> None:
    store, _ = state
    for key in ("old", "new", "waits"):
        store.announce(key, "image.upload", {"image_name": key})
    sent = [row.id for row in store.unannounced() if row.key != "waits"]
    store.delivered(sent, FEDMSG, [FEDMSG])
    with sqlite3.connect(store.path) as database:
        database.execute(
            "UPDATE fedimg_outbox SET announced = ? WHERE key = 'old'", (time.time() - 2 * DAY,)
        )
    assert store.forget_announced(time.time() - DAY) == 1
    assert store.forget_announced(time.time() - DAY) == 0
    with sqlite3.connect(store.path) as database:
        bodies = dict(database.execute("SELECT key, body FROM fedimg_outbox").fetchall())
    assert bodies == {
        "old": "{}",
        "new": '{"image_name":"new"}',
        "waits": '{"image_name":"waits"}',
    }
    store.announce("old", "image.upload", {"image_name": "old"})
    assert [row.key for row in store.unannounced()] == ["waits"]
