"""Automatic retries of jobs: when, how often, and how an operator stops or replaces them."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from fedimg.config import Limits
from fedimg.images import Architecture, RawImage
from fedimg.jobs.outages import Outages
from fedimg.jobs.queue import CLEAN, PUBLISH, JobQueue, workflow_id
from fedimg.jobs.retries import RetrySchedule, ScheduledRetry
from fedimg.progress import AWAY
from fedimg.store.rows import CLEANING
from fedimg.store.store import Store
from tests.jobs.queue_rows import queued

URL = "https://koji.example.org/Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"
IMAGE = RawImage(URL, Architecture.X86_64, "Fedora-Cloud-Base-28-1.1", "build-7")
JOB = IMAGE.job
LIMITS = Limits(retries=3, retry_after=100, settle=10)

DATABASES = ("sqlite", "postgresql")


@pytest.fixture
def retries(store: Store) -> RetrySchedule:
    return RetrySchedule(store)


@pytest.fixture
def jobs(store: Store) -> Iterator[JobQueue]:
    jobs = JobQueue(store)
    jobs.submit(IMAGE)
    yield jobs
    jobs.close()


def advance_clock(store: Store, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Move the clock forward by some seconds."""
    now = time.time() + seconds
    monkeypatch.setattr(time, "time", lambda: now)


def end(
    store: Store, retries: RetrySchedule, run: int, state: str = "incomplete"
) -> ScheduledRetry | None:
    """End a run in a state that another run may improve; return the scheduled retry."""
    store.end(JOB, run, state, "eu-west-1: away")
    return retries.run(JOB, run, LIMITS)


def test_pauses_double_and_runs_are_counted(
    store: Store, jobs: JobQueue, retries: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run, pause in ((1, 100), (2, 200), (3, 400)):
        retry = end(store, retries, run)
        assert retry
        assert retry.due - time.time() == pytest.approx(pause, abs=5)
        jobs.begin_due()
        assert workflow_id(PUBLISH, JOB, run + 1) not in queued(store)
        advance_clock(store, monkeypatch, pause + 5)
        jobs.begin_due()
        assert workflow_id(PUBLISH, JOB, run + 1) in queued(store)
        assert retries.due() == []
    assert end(store, retries, 4) is None
    assert retries.of(JOB) is None


def test_unknown_refusals_get_two_further_runs(
    store: Store, jobs: JobQueue, retries: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A transient error in between is counted apart.
    for run, unknown in ((1, True), (2, False), (3, True)):
        store.end(JOB, run, "failed", "EC2 refused with Strange")
        assert retries.run(JOB, run, LIMITS, unknown=unknown)
        advance_clock(store, monkeypatch, 1000)
        jobs.begin_due()
    store.end(JOB, 4, "failed", "EC2 refused with Strange")
    more = LIMITS.model_copy(update={"retries": 9})
    assert retries.run(JOB, 4, more, unknown=True) is None
    assert retries.of(JOB) is None


def test_unknown_failure_belongs_to_one_run(store: Store, jobs: JobQueue) -> None:
    assert store.begin(JOB, 1) == 1
    assert not store.failed_unknown(JOB, 1)
    assert jobs.finish(JOB, 1, "failed", "Strange", later=False, unknown=True)
    assert store.failed_unknown(JOB, 1)
    assert not store.failed_unknown(JOB, 2)


def test_end_recorded_twice_schedules_one_run(
    store: Store, jobs: JobQueue, retries: RetrySchedule
) -> None:
    assert end(store, retries, 1) == end(store, retries, 1)


def test_status_says_when_it_runs_again(
    store: Store, jobs: JobQueue, retries: RetrySchedule
) -> None:
    retry = end(store, retries, 1)
    row = store.job(JOB)
    assert row
    assert retry
    assert row.next == retry.due


def test_manual_retry_resets_the_count(
    store: Store, jobs: JobQueue, retries: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(store, retries, 1)
    advance_clock(store, monkeypatch, 101)
    jobs.begin_due()
    end(store, retries, 2)
    assert jobs.retry(JOB) == 3
    row = store.job(JOB)
    assert row
    assert row.next is None
    advance_clock(store, monkeypatch, 1000)
    jobs.begin_due()
    assert workflow_id(PUBLISH, JOB, 4) not in queued(store)
    retry = end(store, retries, 3)
    assert retry
    assert retry.count == 1


def test_cancel_drops_the_scheduled_run(
    store: Store, jobs: JobQueue, retries: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(store, retries, 1)
    assert jobs.cancel(JOB)
    row = store.job(JOB)
    assert row
    assert (row.state, row.next) == ("incomplete", None)
    advance_clock(store, monkeypatch, 1000)
    jobs.begin_due()
    assert len(queued(store)) == 1
    assert not jobs.cancel(JOB)


def cleaned(store: Store, jobs: JobQueue, retries: RetrySchedule) -> Any:
    """Fail the job's first run, schedule a clean-up and begin what is due; return the row."""
    store.end(JOB, 1, "failed", "refused")
    retries.clean_up(JOB, 1, 0, LIMITS)
    jobs.begin_due()
    return store.job(JOB)


def test_clean_up_comes_again_when_ec2_has_settled(
    store: Store, jobs: JobQueue, retries: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cleaned(store, jobs, retries).step == "failed"
    advance_clock(store, monkeypatch, 11)
    jobs.begin_due()
    row = store.job(JOB)
    assert row
    assert (row.state, row.step, row.next) == ("failed", CLEANING, None)
    assert f"{workflow_id(CLEAN, JOB, 1)}:1" in queued(store)
    # No run begins during the clean-up.
    assert jobs.retry(JOB) is None
    jobs.begin_due()
    assert len(queued(store)) == 2


def test_clean_up_that_fails_comes_again_ever_later(
    store: Store, jobs: JobQueue, retries: RetrySchedule
) -> None:
    pauses = [retries.clean_up(JOB, 1, count, LIMITS).due - time.time() for count in range(12)]
    assert pauses[:4] == pytest.approx([10, 100, 200, 400], abs=5)
    assert pauses[-1] == pytest.approx(4 * 3600, abs=5)


def test_clean_up_of_a_run_that_has_a_successor_is_not_begun(
    store: Store, jobs: JobQueue, retries: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.end(JOB, 1, "failed", "refused")
    assert store.next_run(JOB, queue=lambda connection, run: None) == 2
    retries.clean_up(JOB, 1, 0, LIMITS)
    advance_clock(store, monkeypatch, 11)
    jobs.begin_due()
    assert len(queued(store)) == 1
    assert retries.due() == []


def test_retry_scheduled_meanwhile_stays(
    store: Store, jobs: JobQueue, retries: RetrySchedule
) -> None:
    first = retries.clean_up(JOB, 1, 0, LIMITS)
    second = retries.clean_up(JOB, 1, 1, LIMITS)
    retries.begun(first)
    assert retries.of(JOB) == second


def test_run_that_waits_for_a_region_begins_when_it_is_back_and_is_not_counted(
    store: Store, jobs: JobQueue, retries: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    outages = Outages(store, LIMITS)
    for run in range(1, LIMITS.retries + 3):
        outages.begin("eu-west-1", "no answer")
        store.set_region(JOB, "eu-west-1", step=AWAY, error="away")
        store.end(JOB, run, "incomplete", "eu-west-1: away")
        assert retries.run_when_back(JOB, run, LIMITS).count == 0
        jobs.begin_due()
        assert workflow_id(PUBLISH, JOB, run + 1) not in queued(store)
        outages.end(outages.all()[0])
        jobs.begin_due()
        assert workflow_id(PUBLISH, JOB, run + 1) in queued(store)
    retry = end(store, retries, run + 1)
    assert retry
    assert retry.count == 1


def test_retry_of_a_run_that_never_came_to_the_region_is_not_begun_for_it(
    store: Store, jobs: JobQueue, retries: RetrySchedule
) -> None:
    outages = Outages(store, LIMITS)
    outages.begin("eu-west-1", "no answer")
    store.set_region(JOB, "eu-west-1", step=AWAY, error="away")
    store.end(JOB, 1, "incomplete", "eu-west-1: away")
    retries.run_when_back(JOB, 1, LIMITS)
    outages.end(outages.all()[0])
    jobs.begin_due()
    store.begin(JOB, 2)
    retry = end(store, retries, 2, "failed")
    jobs.begin_due()
    assert retries.of(JOB) == retry
    assert workflow_id(PUBLISH, JOB, 3) not in queued(store)


def test_run_begins_when_its_region_is_no_longer_waited_for(
    store: Store, jobs: JobQueue, retries: RetrySchedule
) -> None:
    outages = Outages(store, LIMITS)
    outages.begin("eu-west-1", "no answer")
    store.set_region(JOB, "eu-west-1", step=AWAY, error="away")
    store.end(JOB, 1, "incomplete", "eu-west-1: away")
    retries.run_when_back(JOB, 1, LIMITS)
    outages.stop_waiting(outages.all()[0], "excluded")
    jobs.begin_due()
    assert workflow_id(PUBLISH, JOB, 2) in queued(store)


def test_run_that_ec2_refused_begins_when_the_job_is_twice_as_old(
    store: Store, jobs: JobQueue, retries: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = store.job(JOB)
    assert row
    first = LIMITS.retry_after
    for run, (age, pause) in enumerate([(0, first), (7200, 7200), (864000, 14400)], 1):
        monkeypatch.setattr(time, "time", lambda now=row.created + age: now)
        retry = retries.run_when_back(JOB, run, LIMITS, refused=True)
        assert (retry.count, round(retry.due - row.created - age)) == (0, pause)
