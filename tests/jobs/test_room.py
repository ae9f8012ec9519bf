"""Jobs that wait for room for public AMIs go on when their regions have it, the oldest first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedimg.config import Limits
from fedimg.images import AMI, AMIType, Architecture, RawImage, Virtualization
from fedimg.jobs.queue import JobQueue
from fedimg.jobs.retries import RetryKind, RetrySchedule
from fedimg.jobs.room import RoomWait, RoomWaits
from fedimg.progress import NO_ROOM, PUBLIC
from fedimg.store.store import Store

LIMITS = Limits()
FULL, OTHER = "eu-west-1", "us-east-2"


@pytest.fixture
def jobs(store: Store) -> Iterator[JobQueue]:
    queue = JobQueue(store)
    yield queue
    queue.close()


def waiting(store: Store, jobs: JobQueue, number: int, needs: int, region: str = FULL) -> str:
    """Add a job that waits for so many AMIs in a region."""
    url = f"https://koji.example.org/{number}/Fedora-28-1.{number}.x86_64.raw.xz"
    image = RawImage(url, Architecture.X86_64, f"Fedora-28-1.{number}", f"build-{number}")
    job = jobs.submit(image)
    assert job
    store.begin(job, 1)
    store.set_region(job, "us-east-1", step=PUBLIC)
    store.set_region(job, region, step=NO_ROOM, error="no room", needs=needs)
    store.end(job, 1, "incomplete", "no room")
    RetrySchedule(store).run_when_back(job, 1, LIMITS)
    return job


def test_oldest_job_goes_first_and_no_younger_one_overtakes_it(
    store: Store, jobs: JobQueue
) -> None:
    old, young = waiting(store, jobs, 1, 4), waiting(store, jobs, 2, 1)
    waits = RoomWaits(store)
    assert waits.all() == [RoomWait(old, FULL, 4), RoomWait(young, FULL, 1)]
    assert waits.wake(lambda region: 3.0) == []
    assert waits.wake(lambda region: None) == []
    jobs.begin_due()
    assert store.jobs(["queued"]) == []
    assert waits.wake(lambda region: 4.0) == [RoomWait(old, FULL, 4)]
    jobs.begin_due()
    assert [row.job for row in store.jobs(["queued"])] == [old]
    # The room is the older job's until its AMIs are public, and those take room themselves.
    assert waits.wake(lambda region: 4.0) == []
    store.begin(old, 2)
    store.set_region(old, FULL, step="copy")
    assert waits.wake(lambda region: 4.0) == []
    store.set_region(old, FULL, step=PUBLIC)
    assert waits.wake(lambda region: 1.0) == [RoomWait(young, FULL, 1)]


def test_room_of_a_running_job_is_what_is_not_public_yet(store: Store, jobs: JobQueue) -> None:
    old, young = waiting(store, jobs, 1, 2), waiting(store, jobs, 2, 1)
    RoomWaits(store).wake(lambda region: 2.0)
    jobs.begin_due()
    row = store.job(old)
    assert row
    kind = AMIType(Virtualization.HVM, "gp2")
    ami = AMI("ami-00000000000000000", "Fedora-0", FULL, kind, "snap-00000000000000000")
    store.record_ami(row.image, ami)
    store.publish_ami(ami)
    assert RoomWaits(store).wake(lambda region: 1.0) == []
    assert RoomWaits(store).wake(lambda region: 2.0) == [RoomWait(young, FULL, 1)]


def test_job_whose_next_run_failed_before_it_came_to_the_region_waits_for_its_retry(
    store: Store, jobs: JobQueue
) -> None:
    job = waiting(store, jobs, 1, 2)
    waits, retries = RoomWaits(store), RetrySchedule(store)
    assert waits.wake(lambda region: 2.0)
    jobs.begin_due()
    store.begin(job, 2)
    store.end(job, 2, "failed", "no plan")
    retry = retries.run(job, 2, LIMITS)
    assert waits.wake(lambda region: 2.0) == []
    assert retries.of(job) == retry
    # What it has copied is still kept.
    assert store.kept() == {(job, FULL)}


def test_regions_are_looked_at_each_by_itself(store: Store, jobs: JobQueue) -> None:
    waiting(store, jobs, 1, 2)
    other = waiting(store, jobs, 2, 2, OTHER)
    room = {FULL: 1.0, OTHER: 2.0}
    assert RoomWaits(store).wake(room.__getitem__) == [RoomWait(other, OTHER, 2)]


def test_what_a_job_keeps_is_known_until_it_no_longer_waits(store: Store, jobs: JobQueue) -> None:
    job = waiting(store, jobs, 1, 2)
    assert store.kept() == {(job, FULL)}
    assert jobs.cancel(job)
    assert store.kept() == set()
    retry = RetrySchedule(store).of(job)
    assert retry
    assert retry.what is RetryKind.CLEAN_UP
    jobs.begin_due()
    row = store.job(job)
    assert row
    assert row.step == "clean-up"
