"""The queue, without a worker: what is queued once, cancelled, retried, and rolled back."""

import pytest
import sqlalchemy as sa

from fedimg.config import Limits
from fedimg.images import Architecture, RawImage
from fedimg.jobs.queue import (
    CLEAN,
    CLEAN_QUEUE,
    INTAKE_QUEUE,
    JOBS_QUEUE,
    PUBLISH,
    ChangeTry,
    JobQueue,
    workflow_id,
)
from fedimg.jobs.retries import RetrySchedule
from fedimg.store.added_regions import AddedRegions
from fedimg.store.changes import RESTORE, WITHDRAW
from fedimg.store.store import Store
from tests.jobs.queue_rows import queued

URL = "https://koji.example.org/Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"
IMAGE = RawImage(URL, Architecture.X86_64, "Fedora-Cloud-Base-28-1.1", "build-7")

DATABASES = ("sqlite", "postgresql")


def fill_up(store: Store) -> None:
    """Make the queue reject further rows, as on a full disk."""
    trigger = "CREATE TRIGGER no_room BEFORE INSERT ON workflow_status"
    with store.engine.begin() as connection:
        if store.shared:
            connection.exec_driver_sql(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql "
                "AS $$BEGIN RAISE 'no room'; END$$"
            )
            connection.exec_driver_sql(f"{trigger} FOR EACH ROW EXECUTE FUNCTION refuse()")
        else:
            connection.exec_driver_sql(f"{trigger} BEGIN SELECT RAISE(ABORT, 'no room'); END")


def test_entry_taken_in_three_times_is_one_intake(store, jobs):
    for _ in range(3):
        jobs.enqueue_entry("task:10410065")
    assert queued(store) == {"task:10410065": (INTAKE_QUEUE, "ENQUEUED")}


@pytest.mark.parametrize("ended", ["SUCCESS", "ERROR"])
def test_entry_without_images_is_queued_again(store, jobs, ended):
    jobs.enqueue_entry("task:7")
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE workflow_status SET status = '{ended}'")
    jobs.enqueue_entry("task:7")
    assert queued(store) == {"task:7": (INTAKE_QUEUE, "ENQUEUED")}


def test_changes_of_a_job_in_a_region_run_one_after_the_other(store, jobs):
    """An older change may still be at work, also after a kill, when another command replaces it."""
    job, other = IMAGE.job, f"{IMAGE.job}_2"
    assert jobs.change(WITHDRAW, job, "eu-west-1", 1.5, 0) is ChangeTry.QUEUED
    assert jobs.change(WITHDRAW, job, "eu-west-1", 1.5, 0) is ChangeTry.QUEUED
    (first,) = queued(store)
    for status in ("ENQUEUED", "PENDING"):
        with store.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE workflow_status SET status = '{status}'")
        assert jobs.change(RESTORE, job, "eu-west-1", 2.5, 0) is ChangeTry.BUSY
        assert set(queued(store)) == {first}
    assert jobs.change(RESTORE, job, "eu-west-2", 2.5, 0) is ChangeTry.QUEUED
    assert jobs.change(RESTORE, other, "eu-west-1", 2.5, 0) is ChangeTry.QUEUED
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE workflow_status SET status = 'SUCCESS'")
    assert jobs.change(WITHDRAW, job, "eu-west-1", 1.5, 0) is ChangeTry.ENDED
    assert jobs.change(RESTORE, job, "eu-west-1", 2.5, 0) is ChangeTry.QUEUED


def test_task_and_build_of_one_number_are_two_intakes(store, jobs):
    jobs.enqueue_entry("task:7")
    jobs.enqueue_entry("build:7")
    assert len(queued(store)) == 2


def test_submitted_image_waits_among_the_jobs(store, jobs):
    assert jobs.submit(IMAGE) == IMAGE.job
    assert queued(store) == {workflow_id(PUBLISH, IMAGE.job, 1): (JOBS_QUEUE, "ENQUEUED")}


def test_image_submitted_three_times_is_one_job(store, jobs):
    assert [jobs.submit(IMAGE) for _ in range(3)] == [IMAGE.job, None, None]
    assert len(queued(store)) == 1


def test_job_that_cannot_be_queued_does_not_exist(store, jobs):
    fill_up(store)
    with pytest.raises(sa.exc.DatabaseError, match="no room"):
        jobs.submit(IMAGE)
    assert store.jobs() == []
    assert queued(store) == {}


def test_retry_that_cannot_be_queued_leaves_the_job_as_it_was(store, jobs):
    jobs.submit(IMAGE)
    store.end(IMAGE.job, 1, "failed", "reason")
    fill_up(store)
    with pytest.raises(sa.exc.DatabaseError, match="no room"):
        jobs.retry(IMAGE.job)
    row = store.job(IMAGE.job)
    assert (row.state, row.run, row.error) == ("failed", 1, "reason")


def test_retried_job_waits_again_under_its_next_number(store, jobs):
    jobs.submit(IMAGE)
    assert jobs.retry(IMAGE.job) is None
    store.end(IMAGE.job, 1, "failed", "reason")
    assert jobs.retry(IMAGE.job) == 2
    assert jobs.retry(IMAGE.job) is None
    assert set(queued(store)) == {workflow_id(PUBLISH, IMAGE.job, run) for run in (1, 2)}


def test_finished_run_leaves_its_clean_up_in_the_queue(store, jobs):
    jobs.submit(IMAGE)
    store.begin(IMAGE.job, 1)
    assert jobs.finish(IMAGE.job, 1, "complete", None, later=False)
    clean = workflow_id(CLEAN, IMAGE.job, 1)
    assert queued(store)[clean] == (CLEAN_QUEUE, "ENQUEUED")


def test_run_finished_twice_has_one_clean_up(store, jobs):
    # A worker may be killed after `finish` and before the queue records that step.
    jobs.submit(IMAGE)
    store.begin(IMAGE.job, 1)
    assert jobs.finish(IMAGE.job, 1, "complete", None, later=False)
    assert jobs.finish(IMAGE.job, 1, "complete", None, later=False)
    assert len(queued(store)) == 2


def test_cancelled_job_does_not_run_and_is_cleaned_up(store, jobs):
    jobs.submit(IMAGE)
    assert jobs.cancel(IMAGE.job)
    waiting = queued(store)
    assert waiting[workflow_id(PUBLISH, IMAGE.job, 1)][1] == "CANCELLED"
    assert waiting[workflow_id(CLEAN, IMAGE.job, 1)] == (CLEAN_QUEUE, "ENQUEUED")
    assert store.job(IMAGE.job).state == "cancelled"


def test_job_is_cancelled_once(store, jobs):
    jobs.submit(IMAGE)
    assert [jobs.cancel(IMAGE.job), jobs.cancel(IMAGE.job)] == [True, False]
    assert not jobs.finish(IMAGE.job, 1, "complete", None, later=False)
    assert len(queued(store)) == 2


def test_job_in_its_clean_up_cannot_be_cancelled(store, jobs):
    jobs.submit(IMAGE)
    store.begin(IMAGE.job, 1)
    jobs.finish(IMAGE.job, 1, "complete", None, later=False)
    assert not jobs.cancel(IMAGE.job)
    assert queued(store)[workflow_id(PUBLISH, IMAGE.job, 1)][1] == "ENQUEUED"


def test_unknown_job_is_neither_cancelled_nor_retried(jobs):
    assert not jobs.cancel("build-8-other")
    assert jobs.retry("build-8-other") is None


def test_cancel_that_cannot_be_queued_leaves_the_job_running(store, jobs):
    jobs.submit(IMAGE)
    fill_up(store)
    with pytest.raises(sa.exc.DatabaseError, match="no room"):
        jobs.cancel(IMAGE.job)
    assert store.job(IMAGE.job).state == "queued"
    assert queued(store)[workflow_id(PUBLISH, IMAGE.job, 1)][1] == "ENQUEUED"


def test_submitted_jobs_survive_a_restart(store, jobs):
    jobs.submit(IMAGE)
    jobs.enqueue_entry("task:7")
    again = Store(store.directory, store.queue_url if store.shared else "")
    other = JobQueue(again)
    assert other.submit(IMAGE) is None
    other.enqueue_entry("task:7")
    assert set(queued(again)) == {"task:7", workflow_id(PUBLISH, IMAGE.job, 1)}
    other.close()
    again.close()


@pytest.mark.parametrize("scheduled", [True, False])
def test_addition_that_failed_is_given_up_and_the_job_complete_as_before(store, jobs, scheduled):
    jobs.submit(IMAGE)
    store.begin(IMAGE.job, 1)
    store.end(IMAGE.job, 1, "complete", None)
    assert not jobs.cancel(IMAGE.job)
    jobs.add_region(IMAGE.job, "eu-wset-9", "ann")
    store.begin(IMAGE.job, 2)
    store.finish(IMAGE.job, 2, queue=lambda *_: None)
    assert not jobs.cancel(IMAGE.job)
    store.end(IMAGE.job, 2, "incomplete", "eu-wset-9: no such region")
    if scheduled:
        RetrySchedule(store).run(IMAGE.job, 2, Limits())
    assert jobs.cancel(IMAGE.job)
    row = store.job(IMAGE.job)
    assert (row.state, row.step, row.error, row.next) == ("complete", "complete", None, None)
    assert not jobs.cancel(IMAGE.job)
    assert jobs.add_region(IMAGE.job, "eu-west-1", "ann") == 3
    assert AddedRegions(store).of(IMAGE.job, 3) == ["eu-west-1"]


def test_job_whose_added_region_is_cancelled_is_complete_as_before(store, jobs):
    jobs.submit(IMAGE)
    store.begin(IMAGE.job, 1)
    store.end(IMAGE.job, 1, "complete", None)
    assert jobs.add_region(IMAGE.job, "eu-west-1", "ann") == 2
    assert AddedRegions(store).of(IMAGE.job, 2) == ["eu-west-1"]
    assert jobs.cancel(IMAGE.job)
    for _ in range(2):
        # A worker that is killed before the step is recorded repeats it.
        store.end(IMAGE.job, 2, "cancelled", None)
        assert store.job(IMAGE.job).state == "complete"
    # No later run of the job goes there, and a person may ask for it again.
    assert jobs.add_region(IMAGE.job, "eu-west-1", "ann") == 3
    assert AddedRegions(store).of(IMAGE.job, 2) == []
