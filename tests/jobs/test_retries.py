"""What jobs get later, by themselves: when, how often, and what a person may do about it."""

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
from tests.jobs.test_queue import queued

URL = "https://koji.example.org/Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"
IMAGE = RawImage(URL, Architecture.X86_64, "Fedora-Cloud-Base-28-1.1", "build-7")
JOB = IMAGE.job
LIMITS = Limits(retries=3, retry_after=100, settle=10)

#: What is remembered is the same in both.
DATABASES = ("sqlite", "postgresql")


@pytest.fixture
def again(store: Store) -> RetrySchedule:
    return RetrySchedule(store)


@pytest.fixture
def jobs(store: Store) -> Iterator[JobQueue]:
    jobs = JobQueue(store)
    jobs.submit(IMAGE)
    yield jobs
    jobs.close()


def let_pass(store: Store, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The clock goes on."""
    now = time.time() + seconds
    monkeypatch.setattr(time, "time", lambda: now)


def end(
    store: Store, again: RetrySchedule, run: int, state: str = "incomplete"
) -> ScheduledRetry | None:
    """A run ends in a state that another may better; what comes then."""
    store.end(JOB, run, state, "eu-west-1: away")
    return again.run(JOB, run, LIMITS)


def test_pauses_double_and_runs_are_counted(
    store: Store, jobs: JobQueue, again: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run, pause in ((1, 100), (2, 200), (3, 400)):
        turn = end(store, again, run)
        assert turn
        assert turn.due - time.time() == pytest.approx(pause, abs=5)
        jobs.begin_due()
        assert workflow_id(PUBLISH, JOB, run + 1) not in queued(store)
        let_pass(store, monkeypatch, pause + 5)
        jobs.begin_due()
        assert workflow_id(PUBLISH, JOB, run + 1) in queued(store)
        assert again.due() == []
    assert end(store, again, 4) is None
    assert again.of(JOB) is None


def test_refusals_that_nobody_knows_get_two_further_runs(
    store: Store, jobs: JobQueue, again: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that passes in between is counted apart.
    for run, unknown in ((1, True), (2, False), (3, True)):
        store.end(JOB, run, "failed", "EC2 refused with Strange")
        assert again.run(JOB, run, LIMITS, unknown=unknown)
        let_pass(store, monkeypatch, 1000)
        jobs.begin_due()
    store.end(JOB, 4, "failed", "EC2 refused with Strange")
    more = LIMITS.model_copy(update={"retries": 9})
    assert again.run(JOB, 4, more, unknown=True) is None
    assert again.of(JOB) is None


def test_what_failed_a_run_is_not_said_of_another(store: Store, jobs: JobQueue) -> None:
    assert store.begin(JOB, 1) == 1
    assert not store.failed_unknown(JOB, 1)
    assert jobs.finish(JOB, 1, "failed", "Strange", later=False, unknown=True)
    assert store.failed_unknown(JOB, 1)
    assert not store.failed_unknown(JOB, 2)


def test_end_that_is_noted_twice_plans_one_run(
    store: Store, jobs: JobQueue, again: RetrySchedule
) -> None:
    assert end(store, again, 1) == end(store, again, 1)


def test_status_says_when_it_runs_again(store: Store, jobs: JobQueue, again: RetrySchedule) -> None:
    turn = end(store, again, 1)
    row = store.job(JOB)
    assert row
    assert turn
    assert row.next == turn.due


def test_person_who_retries_begins_the_count_anew(
    store: Store, jobs: JobQueue, again: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(store, again, 1)
    let_pass(store, monkeypatch, 101)
    jobs.begin_due()
    end(store, again, 2)
    assert jobs.retry(JOB) == 3
    row = store.job(JOB)
    assert row
    assert row.next is None
    let_pass(store, monkeypatch, 1000)
    jobs.begin_due()
    assert workflow_id(PUBLISH, JOB, 4) not in queued(store)
    turn = end(store, again, 3)
    assert turn
    assert turn.count == 1


def test_person_who_cancels_ends_the_waiting(
    store: Store, jobs: JobQueue, again: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(store, again, 1)
    assert jobs.cancel(JOB)
    row = store.job(JOB)
    assert row
    assert (row.state, row.next) == ("incomplete", None)
    let_pass(store, monkeypatch, 1000)
    jobs.begin_due()
    assert len(queued(store)) == 1
    assert not jobs.cancel(JOB)


def cleaned(store: Store, jobs: JobQueue, again: RetrySchedule) -> Any:
    """The job's row after its first run failed and a further clean-up was begun."""
    store.end(JOB, 1, "failed", "refused")
    again.clean_up(JOB, 1, 0, LIMITS)
    jobs.begin_due()
    return store.job(JOB)


def test_clean_up_comes_again_when_ec2_has_settled(
    store: Store, jobs: JobQueue, again: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cleaned(store, jobs, again).step == "failed"
    let_pass(store, monkeypatch, 11)
    jobs.begin_due()
    row = store.job(JOB)
    assert row
    assert (row.state, row.step, row.next) == ("failed", CLEANING, None)
    assert f"{workflow_id(CLEAN, JOB, 1)}:1" in queued(store)
    # Nothing runs beside it.
    assert jobs.retry(JOB) is None
    jobs.begin_due()
    assert len(queued(store)) == 2


def test_clean_up_that_fails_comes_again_ever_later(
    store: Store, jobs: JobQueue, again: RetrySchedule
) -> None:
    pauses = [again.clean_up(JOB, 1, count, LIMITS).due - time.time() for count in range(12)]
    assert pauses[:4] == pytest.approx([10, 100, 200, 400], abs=5)
    assert pauses[-1] == pytest.approx(4 * 3600, abs=5)


def test_clean_up_of_a_run_that_has_a_successor_is_not_begun(
    store: Store, jobs: JobQueue, again: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.end(JOB, 1, "failed", "refused")
    assert store.next_run(JOB, queue=lambda connection, run: None) == 2
    again.clean_up(JOB, 1, 0, LIMITS)
    let_pass(store, monkeypatch, 11)
    jobs.begin_due()
    assert len(queued(store)) == 1
    assert again.due() == []


def test_plan_that_was_made_meanwhile_stays(
    store: Store, jobs: JobQueue, again: RetrySchedule
) -> None:
    first = again.clean_up(JOB, 1, 0, LIMITS)
    second = again.clean_up(JOB, 1, 1, LIMITS)
    again.begun(first)
    assert again.of(JOB) == second


def test_run_that_waits_for_a_region_begins_when_it_is_back_and_is_not_counted(
    store: Store, jobs: JobQueue, again: RetrySchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    outages = Outages(store, LIMITS)
    for run in range(1, LIMITS.retries + 3):
        outages.begin("eu-west-1", "no answer")
        store.set_region(JOB, "eu-west-1", step=AWAY, error="away")
        store.end(JOB, run, "incomplete", "eu-west-1: away")
        assert again.run_when_back(JOB, run).count == 0
        jobs.begin_due()
        assert workflow_id(PUBLISH, JOB, run + 1) not in queued(store)
        outages.end(outages.all()[0])
        jobs.begin_due()
        assert workflow_id(PUBLISH, JOB, run + 1) in queued(store)
    turn = end(store, again, run + 1)
    assert turn
    assert turn.count == 1


def test_run_that_waits_for_a_region_begins_when_that_is_let_be(
    store: Store, jobs: JobQueue, again: RetrySchedule
) -> None:
    outages = Outages(store, LIMITS)
    outages.begin("eu-west-1", "no answer")
    store.set_region(JOB, "eu-west-1", step=AWAY, error="away")
    store.end(JOB, 1, "incomplete", "eu-west-1: away")
    again.run_when_back(JOB, 1)
    outages.let_be(outages.all()[0], "excluded")
    jobs.begin_due()
    assert workflow_id(PUBLISH, JOB, 2) in queued(store)
