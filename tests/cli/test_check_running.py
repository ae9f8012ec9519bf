"""The findings of `fedimg check` about hub, consumer, worker, database, outbox and jobs.

Follows fedimg/store/heartbeats.py.
"""

import time
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from fedimg.cli import check_running
from fedimg.config import Settings
from fedimg.diagnostics import Finding, Status
from fedimg.images import Architecture, RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.store.heartbeats import CONSUMER, HUB, SILENT_SECONDS, WORKER
from fedimg.store.store import Store
from fedimg.store.tables import heartbeats, jobs, outbox
from fedimg.worker.lease import ALONE, FileLease

URL = "https://koji.example.org/Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"


def settings_of(store: Store, *buses: str) -> Settings:
    return Settings.model_validate(
        {"state_directory": store.directory, "bus": list(buses) or ["fedmsg"]}
    )


def found(settings: Settings) -> dict[str, Finding]:
    return {each.name: each for each in check_running.running(settings)}


def silence(store: Store, kind: str) -> None:
    """Make the last heartbeat of a kind as old as that of a process that is gone."""
    with store.engine.begin() as connection:
        connection.execute(
            sa.update(heartbeats)
            .where(heartbeats.c.kind == kind)
            .values(at=time.time() - SILENT_SECONDS - 60)
        )


def test_site_that_has_not_run_has_one_finding_and_no_database(tmp_path: Path) -> None:
    (finding,) = check_running.running(Settings.model_validate({"state_directory": tmp_path}))
    assert (finding.name, finding.status) == ("running", Status.OK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("bus", "kind", "unit"),
    [("fedmsg", HUB, "fedmsg-hub"), ("fedora-messaging", CONSUMER, "fedimg-consumer")],
)
def test_listener_that_is_gone_is_a_problem(store: Store, bus: str, kind: str, unit: str) -> None:
    def look() -> Finding:
        return found(settings_of(store, bus))[f"{kind}, running"]

    assert (look().status, "has never run" in look().text) == (Status.PROBLEM, True)
    store.beat(kind)
    assert look().status is Status.OK
    silence(store, kind)
    assert look().status is Status.PROBLEM
    assert "last worked at 2" in look().text
    assert "3 min ago" in look().text
    assert f"systemctl start {unit}" in look().hint


def test_site_needs_only_the_listeners_of_its_buses(store: Store) -> None:
    assert "consumer, running" not in found(settings_of(store, "fedmsg"))
    assert "hub, running" not in found(settings_of(store, "fedora-messaging"))


def test_worker_that_is_stopped_or_hangs_is_a_problem(store: Store) -> None:
    settings = settings_of(store)
    assert found(settings)["worker, running"].text == "no worker is running: jobs wait"
    lease = FileLease(store.directory)
    store.beat(WORKER, ALONE)
    assert found(settings)["worker, running"].status is Status.OK
    silence(store, WORKER)
    hung = found(settings)["worker, running"]
    lease.release()
    assert hung.status is Status.PROBLEM
    assert "last worked at" in hung.text


def test_damaged_database_is_a_problem(store: Store) -> None:
    settings = settings_of(store)
    row = {"topic": "image.upload", "body": {"text": "x" * 1000}, "created": 0.0}
    with store.engine.begin() as connection:
        connection.execute(sa.insert(outbox), [{"key": f"{n}", **row} for n in range(500)])
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    store.close()
    with store.path.open("r+b") as file:
        pages = store.path.stat().st_size // size
        for page in range(pages // 2, pages):
            file.seek(page * size)
            file.write(b"\xff" * 64)
    (damaged,) = check_running.running(settings)
    assert (damaged.name, damaged.status) == ("database file", Status.PROBLEM)
    assert "restore the last backup" in damaged.hint


def test_messages_that_nobody_takes_are_a_warning(store: Store) -> None:
    settings = settings_of(store)
    assert found(settings)["outbox"].text == "every message was sent"
    store.announce("a", "image.upload", {})
    assert found(settings)["outbox"].status is Status.OK
    with store.engine.begin() as connection:
        connection.execute(sa.update(outbox).values(created=time.time() - 7200))
    late = found(settings)["outbox"]
    assert late.status is Status.WARNING
    assert late.text == "1 messages wait to be sent, the oldest since 2 h ago"


def test_jobs_that_nothing_retries_are_a_warning_for_a_week(store: Store) -> None:
    settings = settings_of(store)
    image = RawImage(URL, Architecture.X86_64, "build", "build-1")
    with closing(JobQueue(store)) as queue:
        queue.submit(image)
    assert found(settings)["jobs"].status is Status.OK
    store.begin(image.job, 1)
    store.end(image.job, 1, "failed", "it does not boot")
    assert f"{image.job} (failed)" in found(settings)["jobs"].text
    assert found(settings)["jobs"].status is Status.WARNING
    with store.engine.begin() as connection:
        connection.execute(sa.update(jobs).values(updated=time.time() - 8 * 86400))
    assert found(settings)["jobs"].status is Status.OK
