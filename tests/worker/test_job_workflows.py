"""Runs, retries, clean-ups and holds in whole workers; a stand-in replaces EC2Service.

Follows fedimg/worker/job_workflows.py, fedimg/worker/rescheduling.py,
fedimg/worker/job_cleanup.py.
"""

import signal

from fedimg.jobs.holds import Holds
from tests.worker.site import Site, until


def test_job_ends_though_its_clean_up_fails(site: Site) -> None:
    (job,) = site.submit("passes", source="unclean")
    site.start()
    row = site.ended(job)
    assert row.state == "complete"
    assert row.error == "clean-up failed: key error; run 'fedimg cleanup'"


def test_job_that_failed_because_of_ec2_is_retried(site: Site) -> None:
    (job,) = site.submit("away")
    site.start()
    until(lambda: site.row(job).next, "another run planned")
    assert site.row(job).state == "failed"
    assert "EC2 is away" in (site.row(job).error or "")
    until(lambda: len(site.begun()) > 1, "the second run begun")
    (site.state / "go").touch()
    until(lambda: site.row(job).state == "complete", "the job complete")
    assert site.row(job).next is None


def test_job_whose_regions_failed_for_good_is_not_retried_by_itself(site: Site) -> None:
    (job,) = site.submit("final")
    site.start()
    row = site.ended(job)
    assert (row.state, row.error) == ("incomplete", "us-east-2: TagLimitExceeded")
    assert row.next is None
    assert "retries in" not in site.log()
    # A person has corrected the cause.
    (site.state / "go").touch()
    until(lambda: site.jobs.retry(job), "the next run queued")
    until(lambda: site.row(job).state == "complete", "the job complete")
    assert site.begun() == ["final"] * 2


def test_wait_for_room_counts_no_retry_though_another_region_failed_for_good(site: Site) -> None:
    (site.state / "full").touch()
    (job,) = site.submit("final")
    site.start()
    assert site.ended(job).state == "incomplete"
    until(lambda: "continues when eu-west-1 has room" in site.log(), "the job waits for room")
    assert site.row(job).next
    assert "retries in" not in site.log()


def test_job_that_is_public_somewhere_stays_incomplete_whatever_its_next_run_ends_with(
    site: Site,
) -> None:
    (job,) = site.submit("half")
    site.start()
    until(lambda: site.row(job).error == "eu-west-1: not yet", "the first run over")
    (site.state / "go").touch()
    until(lambda: "the plan is refused" in (site.row(job).error or ""), "a later run over")
    assert site.ended(job).state == "incomplete"
    assert site.row(job).next is None
    # Nobody hears that an image failed that is public.
    assert not [row for row in site.store.unannounced() if row.body.get("status") == "failed"]


def test_job_that_waits_for_room_and_fails_elsewhere_is_retried_and_keeps_what_it_copied(
    site: Site,
) -> None:
    (job,) = site.submit("full")
    site.start()
    until(lambda: "continues when eu-west-1 has room" in site.log(), "the job waits for room")
    (site.state / "go").touch()
    until(lambda: site.jobs.retry(job), "the next run queued")
    until(lambda: "retry 2 of 60" in site.log(), "two runs failed, the second after a pause")
    assert site.log().count("continues when") == 1
    assert [row.ami for row in site.store.amis()] == ["ami-1"]


def test_job_with_an_unknown_error_code_gets_two_retries(site: Site) -> None:
    (job,) = site.submit("strange")
    site.start()
    # The counts are in the database, so a worker that dies in between changes nothing.
    until(lambda: site.begun() == ["strange"] * 2, "the second run begun")
    assert site.worker
    site.worker.kill()
    site.worker.wait()
    site.start()

    def over() -> bool:
        row = site.row(job)
        return row.run == 3 and row.state == "failed" and row.next is None

    until(over, "the last run over")
    assert "Strange" in (site.row(job).error or "")
    until(lambda: "retries in" not in site.log().splitlines()[-1], "nothing planned")
    assert "2 of 2" in site.log()
    assert site.row(job).run == 3


def test_failed_clean_up_is_repeated(site: Site) -> None:
    (job,) = site.submit("passes", source="unclean")
    site.start()
    assert "clean-up failed" in (site.ended(job).error or "")
    (site.state / "go").touch()
    until(lambda: site.row(job).error is None, "the job clean")
    assert site.row(job).state == "complete"


def test_cancelled_job_is_retried_only_after_its_clean_up(site: Site) -> None:
    (job,) = site.submit("waits")
    assert site.jobs.cancel(job)
    assert site.jobs.retry(job) is None
    site.start()
    assert site.ended(job).state == "cancelled"
    # Its second clean-up may be in progress.
    until(lambda: site.jobs.retry(job) == 2, "the second run queued")
    (site.state / "go").touch()
    until(lambda: site.row(job).state == "complete", "the second run complete")


def test_held_site_starts_no_job_over_a_restart_until_it_is_released(site: Site) -> None:
    first, second = site.submit("passes", "passes")
    holds = Holds(site.store)
    holds.begin("ann@hub", "a bad night")
    site.start()
    until(lambda: "by ann@hub: a bad night" in site.log(), "the hold in the log")
    until(lambda: site.taken(first), "the worker with the first job in its hands")
    assert site.worker
    site.worker.send_signal(signal.SIGTERM)
    assert site.ended_with() == 0
    site.start()
    until(lambda: site.log().count("by ann@hub: a bad night") == 2, "the hold in the log")
    assert [site.row(job).state for job in (first, second)] == ["queued", "queued"]
    assert site.begun() == []
    holds.release("bob@hub")
    assert [site.ended(job).state for job in (first, second)] == ["complete", "complete"]
    until(lambda: "publishing is no longer held" in site.log(), "the release in the log")


def test_job_that_has_begun_goes_on_after_a_restart_though_the_site_is_held(site: Site) -> None:
    (waits,) = site.submit("waits")
    site.start()
    until(site.begun, "the job begun")
    Holds(site.store).begin("ann", "")
    assert site.worker
    site.worker.send_signal(signal.SIGKILL)
    site.worker.wait()
    site.start()
    until(lambda: len(site.begun()) == 2, "the step begun again")
    (site.state / "go").touch()
    # The stand-in publishes nothing, so that the hold does not stop it.
    assert site.ended(waits).state == "complete"


def test_queued_job_of_a_held_site_is_cancelled(site: Site) -> None:
    (job,) = site.submit("passes")
    Holds(site.store).begin("ann", "")
    site.start()
    until(lambda: site.taken(job), "the worker with the job in its hands")
    assert site.jobs.cancel(job)
    assert site.ended(job).state == "cancelled"
    assert site.begun() == []
