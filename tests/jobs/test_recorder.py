"""The rows that a job's events leave in the store and the outbox.

Follows fedimg/progress.py.
"""

import time
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI, AMIType, Architecture, Disk, RawImage, Virtualization
from fedimg.jobs.queue import JobQueue
from fedimg.jobs.recorder import Recorder
from fedimg.progress import CheckResult, CheckState, Observer
from fedimg.store.rows import DELETED, DISABLED, DISABLING, HIDDEN, PRIVATE, PUBLIC, JobRow
from fedimg.store.store import Store
from fedimg.store.tables import amis

IMAGE = RawImage(
    "https://koji.test/Fedora-Cloud-Base-28-1.1.x86_64.raw.xz",
    Architecture.X86_64,
    "Fedora-Cloud-Base-28-1.1",
    "build-5",
)
GP2 = AMIType(Virtualization.HVM, "gp2")
ORIGIN = AMI("ami-1", "a", "us-east-1", GP2, "snap-1")
DISK = Disk("d" * 64, 3 << 30)
COPY = AMI("ami-2", "b", "eu-west-1", GP2, "snap-2")
CHECKS = [CheckResult("runs a command", CheckState.PASSED, 0.5)]


def outbox(store: Store) -> list[tuple[str, Any, str]]:
    return [
        (row.topic, row.body.get("status"), row.body["destination"]) for row in store.unannounced()
    ]


def record_all(observer: Observer) -> None:
    observer.started()
    observer.registered(ORIGIN)
    observer.test_started(ORIGIN)
    observer.copied(COPY, ORIGIN)
    observer.test_completed(ORIGIN, CHECKS)
    observer.published(ORIGIN)
    observer.published(COPY)


def test_job_is_announced_once_at_each_point(store: Store) -> None:
    recorder = Recorder(store, IMAGE, 1, "us-east-1")
    record_all(recorder)
    # A restarted job repeats its events.
    record_all(Recorder(store, IMAGE, 1, "us-east-1"))
    assert outbox(store) == [
        ("image.upload", "started", "EC2 (us-east-1)"),
        ("image.upload", "completed", "EC2 (us-east-1)"),
        ("image.test", "started", "EC2 (us-east-1)"),
        ("image.copy", None, "eu-west-1"),
        ("image.test", "completed", "EC2 (us-east-1)"),
        ("image.publish", None, "us-east-1"),
        ("image.publish", None, "eu-west-1"),
    ]


def test_ami_and_its_announcement_are_one_transaction(store: Store) -> None:
    recorder = Recorder(store, IMAGE, 1, "us-east-1")
    commits: list[sa.Connection] = []
    event.listen(store.engine, "commit", commits.append)
    for record in (
        lambda: recorder.registered(ORIGIN),
        lambda: recorder.copied(COPY, ORIGIN),
        lambda: recorder.published(ORIGIN),
    ):
        before, announced = len(commits), store.announcements
        record()
        # A relay that rests knows by the counter that there is a message.
        assert (len(commits) - before, store.announcements - announced) == (1, 1)
    assert len(store.unannounced()) == 3


def test_next_run_announces_itself_and_no_existing_amis(store: Store) -> None:
    record_all(Recorder(store, IMAGE, 1, "us-east-1"))
    before = outbox(store)
    record_all(Recorder(store, IMAGE, 2, "us-east-1"))
    assert outbox(store)[len(before) :] == [
        ("image.upload", "started", "EC2 (us-east-1)"),
        ("image.test", "started", "EC2 (us-east-1)"),
        ("image.test", "completed", "EC2 (us-east-1)"),
    ]


def test_amis_are_private_until_published_and_forgotten_when_dropped(store: Store) -> None:
    recorder = Recorder(store, IMAGE, 1, "us-east-1")
    recorder.registered(ORIGIN)
    recorder.copied(COPY, ORIGIN)
    assert [(row.ami, row.public) for row in store.amis()] == [("ami-2", False), ("ami-1", False)]
    recorder.published(COPY)
    recorder.dropped(ORIGIN, "it does not boot")
    assert [(row.ami, row.public) for row in store.amis()] == [("ami-2", True)]


def test_record_of_an_ami_tells_the_image_its_bytes_and_when_it_became_public(
    store: Store,
) -> None:
    with closing(JobQueue(store)) as queue:
        queue.submit(IMAGE)
    recorder = Recorder(store, IMAGE, 1, "us-east-1")
    assert recorder.disk() is None
    recorder.written(DISK)
    recorder.registered(ORIGIN)
    (row,) = store.amis()
    assert (row.state, row.published_at) == (PRIVATE, None)
    before = time.time()
    recorder.published(ORIGIN)
    (row,) = store.amis()
    assert (row.state, row.source, row.build) == (PUBLIC, "build-5", IMAGE.build)
    assert Disk(row.disk_sha256 or "", row.disk_length or 0) == DISK == recorder.disk()
    assert before <= (row.published_at or 0) <= time.time()


@pytest.mark.parametrize("state", [DISABLING, DISABLED, HIDDEN, DELETED])
def test_ami_that_was_taken_out_of_reach_is_neither_offered_nor_recorded_as_public(
    store: Store, state: str
) -> None:
    with closing(JobQueue(store)) as queue:
        queue.submit(IMAGE)
    recorder = Recorder(store, IMAGE, 1, "us-east-1")
    recorder.registered(ORIGIN)
    store.write(sa.update(amis).values(state=state))
    before = outbox(store)
    with pytest.raises(EC2ServiceException, match=f"is recorded as {state}"):
        recorder.publishing("us-east-1", [ORIGIN.id])
    # The call that makes it public may have been on its way.
    assert not recorder.published(ORIGIN)
    (row,) = store.all_amis()
    assert (row.state, row.public, row.published_at) == (state, False, None)
    assert outbox(store) == before


def test_failed_boot_check_and_failed_job_are_announced(store: Store) -> None:
    recorder = Recorder(store, IMAGE, 1, "us-east-1")
    recorder.test_failed(
        ORIGIN, [CheckResult("runs a command", CheckState.FAILED, 60.0, "no")], "kernel panic"
    )
    recorder.failed(EC2ServiceException("it broke", region="us-east-1", output="the last words"))
    recorder.failed(EC2ServiceException("told again"))
    test, upload = (row.body for row in store.unannounced())
    assert (test["status"], test["extra"]["data"]) == ("failed", "kernel panic")
    (check,) = test["extra"]["checks"]
    assert check == {"name": "runs a command", "passed": False, "seconds": 60.0}
    assert upload["status"] == "failed"
    assert upload["extra"] == {"data": "the last words\nit broke [us-east-1]"}


def test_latest_boot_check_of_an_ami_type_is_kept_with_its_job(store: Store) -> None:
    jobs = JobQueue(store)
    jobs.submit(IMAGE)
    jobs.close()
    failed = CheckResult("proxied", CheckState.FAILED, 2.0, "http://a:secret@example.org")
    recorder = Recorder(store, IMAGE, 1, "us-east-1")
    recorder.test_started(ORIGIN)
    assert [test.status for test in job_of(store).tests] == ["started"]
    recorder.test_failed(ORIGIN, [*CHECKS, failed], "panic at http://a:secret@example.org")
    (test,) = job_of(store).tests
    assert (test.region, test.ami, test.status) == ("us-east-1", ORIGIN.id, "failed")
    assert [(check.name, check.state) for check in test.checks] == [
        ("runs a command", CheckState.PASSED),
        ("proxied", CheckState.FAILED),
    ]
    assert test.output == "panic at http://[hidden]@example.org"
    assert "secret" not in test.checks[1].output

    # The next run has another AMI of the same type.
    Recorder(store, IMAGE, 2, "us-east-1").test_completed(replace(ORIGIN, id="ami-3"), CHECKS)
    (test,) = job_of(store).tests
    assert (test.ami, test.status, test.output, test.checks) == ("ami-3", "completed", "", CHECKS)


def job_of(store: Store) -> JobRow:
    job = store.job(IMAGE.job)
    assert job is not None
    return job


def test_error_without_a_text_is_announced_by_its_class(store: Store) -> None:
    Recorder(store, IMAGE, 1, "us-east-1").failed(RuntimeError())
    assert store.unannounced()[0].body["extra"] == {"data": "runtime error"}


def test_progress_is_kept_by_region(store: Store) -> None:
    jobs = JobQueue(store)
    jobs.submit(IMAGE)
    jobs.close()
    recorder = Recorder(store, IMAGE, 1, "us-east-1")
    recorder.progress("us-east-1", "write", "50 %")
    recorder.progress("eu-west-1", "copy", error="refused")
    job = store.job(IMAGE.job)
    assert job is not None
    assert [(row.region, row.step, row.detail, row.error) for row in job.regions] == [
        ("eu-west-1", "copy", "", "refused"),
        ("us-east-1", "write", "50 %", None),
    ]
