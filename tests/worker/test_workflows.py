"""Run whole worker processes on a queue of jobs; a stand-in takes the place of EC2Service."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedimg.cli.follow import is_active
from fedimg.images import Architecture, RawImage
from fedimg.jobs.holds import Holds
from fedimg.jobs.queue import JobQueue
from fedimg.store.rows import JobRow
from fedimg.store.store import Store
from fedimg.worker.executor import VERSION
from fedimg.worker.registry import Registry
from tests.silent_relay import SILENT_RELAY

pytestmark = pytest.mark.process

URL = "https://koji.example.org/Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"
#: In seconds; on an idle machine nothing here takes a tenth of it.
PATIENCE = 90.0

#: The build's name of an image says how its job fares; no job makes anything in EC2.
WORKER = """
import logging
import socket
import sys
from pathlib import Path

from fedimg.config import Settings
from fedimg.exceptions import Cancelled, EC2ServiceException
from fedimg.services.ec2 import Result
from fedimg.worker import process, workflows

state = Path(sys.argv[1])


class Service:
    def __init__(self, site, shared, *, stop, **_arguments):
        self.stop = stop

    def upload(self, image, observer, steps, *, rerun):
        def write():
            observer.progress("us-east-1", "write")
            with (state / "begun").open("a") as begun:
                print(image.build, file=begun)
            while image.build == "waits" and not (state / "go").exists():
                if self.stop.wait(0.05):
                    raise Cancelled
            connect()
            observer.progress("us-east-1", "written")
            if image.build == "fails":
                raise EC2ServiceException("refused")
            if image.build == "strange":
                raise EC2ServiceException("EC2 refused with Strange", unknown="Strange")
            if image.build == "away" and not (state / "go").exists():
                raise EC2ServiceException("EC2 is away", later=True)
            return ""

        steps.run("write", write)
        steps.run("register", lambda: print("registered", file=(state / "begun").open("a")))
        return Result()


def connect():
    try:
        socket.socket().close()
    except OSError as error:
        raise EC2ServiceException("cannot connect") from error

"""
WORKER += SILENT_RELAY
WORKER += """

logging.basicConfig(level=logging.INFO)
workflows.EC2Service = Service
process.OutboxRelay = Relay


def leftovers(clients, site, regions, *, job, **more):
    if "unclean" in job and not (state / "go").exists():
        raise KeyError("unforeseen")
    return []


workflows.cleanup.leftovers = leftovers
settings = Settings.model_validate(
    {
        "state_directory": state,
        "ec2": {"limits": {"jobs": 1, "settle": 2, "outage": 2, "retry_after": 1, "retries": 60}},
        # No server listens there: entries wait for Koji.
        "koji": {"hub": "http://127.0.0.1:9/kojihub"},
        "worker": {"stop_seconds": float(sys.argv[2])},
    }
)
sys.exit(process.run_worker(settings))
"""


class Site:
    """A state directory, its queue, and the worker process that runs on it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.store = Store(state)
        self.jobs = JobQueue(self.store)
        self.worker: subprocess.Popen[bytes] | None = None

    def start(self, stop_seconds: float = 3) -> None:
        log = (self.state / "log").open("ab")
        with log:
            self.worker = subprocess.Popen(
                [sys.executable, "-c", WORKER, self.state, str(stop_seconds)], stderr=log
            )

    def ended_with(self) -> int:
        """Wait for the worker's end; return its exit status."""
        assert self.worker
        return self.worker.wait(PATIENCE)

    def log(self) -> str:
        """Return the log of all workers so far."""
        return (self.state / "log").read_text()

    def close(self) -> None:
        if self.worker and self.worker.poll() is None:
            self.worker.send_signal(signal.SIGKILL)
            self.worker.wait()
        self.jobs.close()
        self.store.close()

    def submit(self, *builds: str, source: str = "build") -> list[str]:
        """Queue an image of each build; return their jobs."""
        images = [
            RawImage(URL, Architecture.X86_64, build, f"{source}-{number}")
            for number, build in enumerate(builds, 1)
        ]
        return [job for job in map(self.jobs.submit, images) if job]

    def begun(self) -> list[str]:
        """Return the steps that have begun, in order."""
        path = self.state / "begun"
        return path.read_text().split() if path.exists() else []

    def row(self, job: str) -> JobRow:
        row = self.store.job(job)
        assert row
        return row

    def taken(self, job: str) -> bool:
        """Return whether a worker has the job in its hands."""
        return any(job == held for each in Registry(self.store).all() for held, _ in each.jobs)

    def ended(self, job: str) -> JobRow:
        """Wait until a job is not active; return its row."""
        until(lambda: not is_active(self.row(job)), f"{job} ended")
        return self.row(job)


def until(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE} s"
        time.sleep(0.05)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "state")
    yield site
    site.close()


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


# Holding


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


# Stopping


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


# Upgrading


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
