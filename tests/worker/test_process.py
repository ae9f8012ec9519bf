"""Whole worker processes are stopped, killed and starved; a stand-in replaces EC2Service.

Follows fedimg/process/abort.py.
"""

import resource
import signal

from fedimg.worker.executor import VERSION
from tests.worker.site import PATIENCE, Site, until


def test_worker_exits_when_its_database_fails_and_the_next_one_continues(site: Site) -> None:
    (job,) = site.submit("waits")
    site.start()
    until(site.begun, "the job begun")
    rename = "ALTER TABLE {} RENAME TO {}"
    with site.store.engine.begin() as connection:
        connection.exec_driver_sql(rename.format("fedimg_regions", "gone"))
    (site.state / "go").touch()
    assert site.ended_with() == 1
    with site.store.engine.begin() as connection:
        connection.exec_driver_sql(rename.format("gone", "fedimg_regions"))
    site.start()
    assert site.ended(job).state == "complete"
    assert site.row(job).error is None


def test_stopping_worker_waits_for_steps_in_progress_and_starts_no_other(site: Site) -> None:
    waits, _ = site.submit("waits", "passes")
    # The worker may wait for the step as long as the test does.
    site.start(stop_seconds=PATIENCE)
    until(site.begun, "the first job begun")
    assert site.worker
    site.worker.send_signal(signal.SIGTERM)
    until(lambda: "worker stopping" in site.log(), "the worker stopping")
    (site.state / "go").touch()
    assert site.ended_with() == 0
    # The next step of the job, and the other job, wait for the next worker.
    assert site.begun() == ["waits"]
    assert site.row(waits).state == "running"
    site.start()
    assert site.ended(waits).state == "complete"
    until(lambda: len(site.begun()) == 4, "the other job's steps")
    assert site.begun().count("waits") == 1


def test_step_that_does_not_end_in_time_is_repeated(site: Site) -> None:
    (waits,) = site.submit("waits")
    site.start(stop_seconds=0.1)
    until(site.begun, "the job begun")
    assert site.worker
    site.worker.send_signal(signal.SIGTERM)
    assert site.ended_with() == 0
    (site.state / "go").touch()
    site.start()
    assert site.ended(waits).state == "complete"
    assert site.begun() == ["waits", "waits", "registered"]


def test_second_signal_ends_the_worker_at_once(site: Site) -> None:
    site.submit("waits")
    site.start(stop_seconds=10 * PATIENCE)
    until(site.begun, "the job begun")
    assert site.worker
    site.worker.send_signal(signal.SIGINT)
    until(lambda: "worker stopping" in site.log(), "the worker stopping")
    site.worker.send_signal(signal.SIGINT)
    assert site.ended_with() == 0


def test_stopping_worker_does_not_wait_for_koji(site: Site) -> None:
    site.jobs.enqueue_entry("build:1")
    site.start(stop_seconds=10 * PATIENCE)
    until(lambda: "build:1 waits for Koji" in site.log(), "the worker asking")
    assert site.worker
    site.worker.send_signal(signal.SIGTERM)
    assert site.ended_with() == 0
    # The next worker asks again, as the lookup was interrupted and not refused.
    site.start()
    until(lambda: site.log().count("build:1 waits for Koji") == 2, "the next worker asking")


def test_worker_that_ran_out_of_files_fails_no_job(site: Site) -> None:
    (waits,) = site.submit("waits")
    site.start()
    until(site.begun, "the job begun")
    assert site.worker
    _, hard = resource.prlimit(site.worker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(site.worker.pid, resource.RLIMIT_NOFILE, (3, hard))
    (site.state / "go").touch()
    assert site.ended_with() == 1
    site.start()
    row = site.ended(waits)
    assert (row.state, row.error) == ("complete", None)


def test_worker_refuses_to_start_on_runs_of_an_incompatible_version(site: Site) -> None:
    (waits,) = site.submit("waits")
    site.start()
    until(site.begun, "the job begun")
    assert site.worker
    site.worker.kill()
    site.worker.wait()
    for version, status in (("0", 1), (VERSION, 0)):
        with site.store.engine.begin() as connection:
            connection.exec_driver_sql(
                f"UPDATE workflow_status SET application_version = {version}"
            )
        site.start()
        if status:
            assert site.ended_with() == status
            assert f"incompatible fedimg version started fedimg.publish:{waits}:1" in site.log()
            # A start that was refused has put the run back into its queue.
            with site.store.engine.begin() as connection:
                connection.exec_driver_sql("UPDATE workflow_status SET status = 'ENQUEUED'")
            site.start()
            assert site.ended_with() == status
            assert (
                site.log().count(f"incompatible fedimg version started fedimg.publish:{waits}:1")
                == 2
            )
    (site.state / "go").touch()
    assert site.ended(waits).state == "complete"
