"""Whole worker processes take runs from the queues; a stand-in replaces EC2Service."""

import sqlalchemy as sa

from fedimg.worker.lease import ALONE
from fedimg.worker.process import DRAINED
from fedimg.worker.registry import Registry
from tests.worker.site import Site, until


def test_cancelled_job_ends_at_once_though_the_worker_has_no_free_slot(site: Site) -> None:
    waiting, queued = site.submit("waits", "passes")
    site.start()
    until(site.begun, "the first job begun")
    assert site.jobs.cancel(waiting)
    assert site.ended(waiting).state == "cancelled"
    assert site.ended(queued).state == "complete"


def test_jobs_begin_oldest_first_and_delay_no_clean_up(site: Site) -> None:
    *jobs, last = site.submit("fails", "fails", "passes", "passes", "passes", "waits")
    site.start()
    for job in jobs:
        site.ended(job)
    until(lambda: site.begun()[-1] == "waits", "the last job begun")
    passes = ["passes", "registered"]
    assert site.begun() == ["fails", "fails", *passes * 3, "waits"]
    assert site.row(last).state == "running"


def test_drained_worker_finishes_its_job_and_the_clean_up_and_begins_no_other(site: Site) -> None:
    waits, queued = site.submit("waits", "passes")
    site.start()
    until(site.begun, "the first job begun")
    assert Registry(site.store).drain(ALONE)
    until(lambda: "is draining" in site.log(), "the worker draining")
    (site.state / "go").touch()
    assert site.ended_with() == DRAINED
    assert (site.row(waits).state, site.row(queued).state) == ("complete", "queued")
    assert not site.jobs.cleaning()
    assert Registry(site.store).all() == []


def test_run_that_a_drained_worker_took_at_its_end_is_left_to_another(site: Site) -> None:
    """Nobody looks for the runs of a worker that has left."""
    site.submit("waits", "passes")
    site.start()
    until(site.begun, "the first job begun")
    assert Registry(site.store).drain(ALONE)
    until(lambda: "is draining" in site.log(), "the worker draining")
    with site.store.engine.begin() as connection:
        taken = sa.text(
            "UPDATE workflow_status SET status = 'PENDING', executor_id = :worker "
            "WHERE status = 'ENQUEUED' RETURNING workflow_uuid"
        )
        (run,) = connection.execute(taken, {"worker": ALONE}).scalars()
    (site.state / "go").touch()
    assert site.ended_with() == DRAINED
    with site.store.engine.begin() as connection:
        shown = sa.text("SELECT status FROM workflow_status WHERE workflow_uuid = :run")
        assert connection.execute(shown, {"run": run}).scalar_one() == "ENQUEUED"
