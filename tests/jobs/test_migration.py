"""Moves of a file's rows and queues to a PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedimg.config import FEDMSG
from fedimg.images import AMI, AMIType, Architecture, RawImage, Virtualization
from fedimg.jobs.migration import MoveRefused, move
from fedimg.jobs.queue import EntryState, JobQueue
from fedimg.store.store import Store
from tests.postgresql import PostgreSQL

FEDIMG = Path(sys.executable).parent / "fedimg"


def image(number: int) -> RawImage:
    name = f"Fedora-Cloud-Base-43-{number}"
    url = f"https://koji.example.org/{name}.x86_64.raw.xz"
    return RawImage(url, Architecture.X86_64, name, f"build-{number}", 1, f"sha256:{number:064x}")


DONE, WAITS, RUNS = image(1), image(2), image(3)
PUBLIC = AMI("ami-1", "n", "us-east-1", AMIType(Virtualization.HVM, "gp2"), "snap-1")


@pytest.fixture
def source(store: Store, jobs: JobQueue) -> Store:
    """Fill a file with an ended job, a queued one, a queued entry and two messages."""
    jobs.submit(DONE)
    store.begin(DONE.job, 1)
    store.set_region(DONE.job, "us-east-1", step="public")
    store.record_ami(DONE, PUBLIC)
    store.publish_ami(PUBLIC)
    store.announce("a", "image.upload", {"n": 1})
    store.announce("b", "image.publish", {"n": 2})
    store.delivered([1], FEDMSG, [FEDMSG])
    store.end(DONE.job, 1, "complete", None)
    jobs.submit(WAITS)
    jobs.enqueue_entry("build:9")
    return store


@pytest.fixture
def target(tmp_path: Path, postgresql: PostgreSQL) -> Iterator[Store]:
    store = Store(tmp_path / "state", postgresql.blank())
    yield store
    store.close()


def test_all_rows_are_moved_and_queued_work_stays_queued(source: Store, target: Store) -> None:
    moved = move(source, target)
    assert (moved.jobs, moved.amis, moved.messages, moved.queued) == (2, 1, 2, 2)
    assert target.jobs() == source.jobs()
    assert target.amis() == source.amis()
    assert [row.key for row in target.unannounced()] == ["b"]
    queue = JobQueue(target)
    assert queue.known("build:9") is EntryState.QUEUED
    assert queue.submit(DONE) is None
    assert queue.cancel(WAITS.job)
    queue.close()
    # New rows get numbers after those of the moved rows.
    target.announce("c", "image.publish", {"n": 3})
    assert [row.key for row in target.unannounced()] == ["b", "c"]


def test_moved_messages_keep_the_buses_that_confirmed_them(source: Store, target: Store) -> None:
    # With this row gone, the numbers of the others are not 1, 2, 3.
    with source.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM fedimg_outbox WHERE key = 'a'")
    source.announce("c", "image.publish", {"n": 3})
    (_, last) = source.unannounced()
    buses = ("fedmsg", "fedora-messaging")
    source.delivered([last.id], "fedmsg", buses)
    move(source, target)
    assert [row.key for row in target.unannounced(bus="fedmsg")] == ["b"]
    assert [row.key for row in target.unannounced(bus="fedora-messaging")] == ["b", "c"]


def test_job_that_runs_is_named_and_nothing_is_moved(
    source: Store, jobs: JobQueue, target: Store
) -> None:
    jobs.submit(RUNS)
    source.begin(RUNS.job, 1)
    with pytest.raises(MoveRefused, match=f"{RUNS.job}.*fedimg drain"):
        move(source, target)
    assert target.jobs() == []


def test_database_with_jobs_is_left_alone(source: Store, target: Store) -> None:
    move(source, target)
    with pytest.raises(MoveRefused, match="has jobs already"):
        move(source, target)


def fedimg(config: Path, *arguments: str, status: int = 0) -> Any:
    done = subprocess.run(
        [FEDIMG, *arguments, "--json", "--config", config],
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


@pytest.mark.process
def test_commands_prepare_and_move(source: Store, tmp_path: Path, postgresql: PostgreSQL) -> None:
    source.close()
    config = tmp_path / "fedimg.toml"
    config.write_text(f'state_directory = "state"\ndatabase = "{postgresql.create()}"\n')
    assert "fedimg store migrate" in fedimg(config, "status", status=2)["error"]
    assert fedimg(config, "store", "migrate")["prepared"]
    moved = fedimg(config, "store", "move")
    assert (moved["jobs"], moved["queued"]) == (2, 2)
    assert [row["job"] for row in fedimg(config, "status")] == [DONE.job, WAITS.job]
    assert fedimg(config, "workers") == []
    assert not source.path.exists()
    assert source.path.with_suffix(".db.moved").exists()
    fedimg(config, "store", "move", status=2)
