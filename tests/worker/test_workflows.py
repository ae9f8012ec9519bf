"""The worker's queues, shown by a whole worker process; what it does at EC2 is a stand-in's."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedimg.cli.follow import going_on
from fedimg.images import Architecture, RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.store.rows import JobRow
from fedimg.store.store import Store
from fedimg.worker.executor import VERSION

URL = "https://koji.example.org/Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"
#: Nothing here takes a tenth of this on an idle machine.
PATIENCE = 90.0

#: Each image is treated as its build's name says; EC2 has nothing of any.
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
    def __init__(self, settings, *, stop, **given):
        self.stop = stop

    def upload(self, image, observer, steps, *, again):
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


class OutboxRelay:
    def __init__(self, *given, turn):
        pass

    def start(self):
        pass

    def tell_to_stop(self, timeout):
        pass

    def stop(self, timeout):
        pass


logging.basicConfig(level=logging.INFO)
workflows.EC2Service = Service
process.OutboxRelay = OutboxRelay


def leftovers(clients, site, regions, *, job, **more):
    if "unclean" in job and not (state / "go").exists():
        raise KeyError("unforeseen")
    return []


workflows.cleanup.leftovers = leftovers
settings = Settings.model_validate(
    {
        "state_directory": state,
        "ec2": {"limits": {"jobs": 1, "settle": 2, "outage": 2, "retry_after": 1, "retries": 60}},
        # Nobody listens there: what is announced waits for Koji.
        "koji": {"hub": "http://127.0.0.1:9/kojihub"},
        "worker": {"stop_seconds": float(sys.argv[2])},
    }
)
sys.exit(process.run_worker(settings))
"""


class Site:
    """A state directory, what an operator may do there, and workers that come and go."""

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
        """The worker's exit status."""
        assert self.worker
        return self.worker.wait(PATIENCE)

    def log(self) -> str:
        """What the workers have said."""
        return (self.state / "log").read_text()

    def close(self) -> None:
        if self.worker and self.worker.poll() is None:
            self.worker.send_signal(signal.SIGKILL)
            self.worker.wait()
        self.jobs.close()
        self.store.close()

    def submit(self, *manners: str, source: str = "build") -> list[str]:
        """Queue an image of each manner; their jobs."""
        images = [
            RawImage(URL, Architecture.X86_64, manner, f"{source}-{number}")
            for number, manner in enumerate(manners, 1)
        ]
        return [job for job in map(self.jobs.submit, images) if job]

    def begun(self) -> list[str]:
        """What has been begun, in order."""
        path = self.state / "begun"
        return path.read_text().split() if path.exists() else []

    def row(self, job: str) -> JobRow:
        row = self.store.job(job)
        assert row
        return row

    def ended(self, job: str) -> JobRow:
        """The job when nothing is done for it any more."""
        until(lambda: not going_on(self.row(job)), f"{job} ended")
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


def test_job_that_is_cancelled_lets_go_at_once_though_the_worker_is_full(site: Site) -> None:
    waiting, queued = site.submit("waits", "passes")
    site.start()
    until(site.begun, "the first job begun")
    assert site.jobs.cancel(waiting)
    assert site.ended(waiting).state == "cancelled"
    assert site.ended(queued).state == "complete"


def test_jobs_begin_oldest_first_and_none_holds_up_a_clean_up(site: Site) -> None:
    *jobs, last = site.submit("fails", "fails", "passes", "passes", "passes", "waits")
    site.start()
    for job in jobs:
        site.ended(job)
    until(lambda: site.begun()[-1] == "waits", "the last job begun")
    passes = ["passes", "registered"]
    assert site.begun() == ["fails", "fails", *passes * 3, "waits"]
    assert site.row(last).state == "running"


def test_job_ends_though_its_clean_up_does_not_work(site: Site) -> None:
    (job,) = site.submit("passes", source="unclean")
    site.start()
    row = site.ended(job)
    assert row.state == "complete"
    assert row.error == "clean-up failed: 'unforeseen'; run 'fedimg cleanup'"


def test_job_that_ec2_failed_runs_again_by_itself(site: Site) -> None:
    (job,) = site.submit("away")
    site.start()
    until(lambda: site.row(job).next, "another run planned")
    assert site.row(job).state == "failed"
    assert "EC2 is away" in (site.row(job).error or "")
    until(lambda: len(site.begun()) > 1, "the second run begun")
    (site.state / "go").touch()
    until(lambda: site.row(job).state == "complete", "the job complete")
    assert site.row(job).next is None


def test_job_that_ec2_refused_by_an_unknown_code_gets_two_further_runs(site: Site) -> None:
    (job,) = site.submit("strange")
    site.start()
    # The counts are in the database: a worker that dies in between changes nothing.
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
    until(lambda: "runs again" not in site.log().splitlines()[-1], "nothing planned")
    assert "2 of 2" in site.log()
    assert site.row(job).run == 3


def test_clean_up_that_did_not_work_comes_again_by_itself(site: Site) -> None:
    (job,) = site.submit("passes", source="unclean")
    site.start()
    assert "clean-up failed" in (site.ended(job).error or "")
    (site.state / "go").touch()
    until(lambda: site.row(job).error is None, "the job clean")
    assert site.row(job).state == "complete"


def test_cancelled_job_is_retried_only_behind_its_clean_up(site: Site) -> None:
    (job,) = site.submit("waits")
    assert site.jobs.cancel(job)
    assert site.jobs.retry(job) is None
    site.start()
    assert site.ended(job).state == "cancelled"
    # It may be cleaned up once more just now.
    until(lambda: site.jobs.retry(job) == 2, "the second run queued")
    (site.state / "go").touch()
    until(lambda: site.row(job).state == "complete", "the second run complete")


def test_worker_whose_database_fails_ends_and_the_next_one_goes_on(site: Site) -> None:
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


# Stopping


def test_step_under_way_ends_before_the_worker_and_nothing_begins(site: Site) -> None:
    waits, _ = site.submit("waits", "passes")
    # It could wait for its step for as long as the test does.
    site.start(stop_seconds=PATIENCE)
    until(site.begun, "the first job begun")
    assert site.worker
    site.worker.send_signal(signal.SIGTERM)
    until(lambda: "worker stopping" in site.log(), "the worker stopping")
    (site.state / "go").touch()
    assert site.ended_with() == 0
    # Its next step waits for the next worker, as does the other job.
    assert site.begun() == ["waits"]
    assert site.row(waits).state == "running"
    site.start()
    assert site.ended(waits).state == "complete"
    until(lambda: len(site.begun()) == 4, "the other job's steps")
    assert site.begun().count("waits") == 1


def test_step_that_does_not_end_in_time_is_begun_again(site: Site) -> None:
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
    site.jobs.take_in("build:1")
    site.start(stop_seconds=10 * PATIENCE)
    until(lambda: "build:1 waits for Koji" in site.log(), "the worker asking")
    assert site.worker
    site.worker.send_signal(signal.SIGTERM)
    assert site.ended_with() == 0
    # Broken off, not refused: the next worker asks again.
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


def test_worker_refuses_jobs_begun_by_other_steps(site: Site) -> None:
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
            assert f"fedimg.publish:{waits}:1, begun by a version of fedimg" in site.log()
            # As a start that came to nothing leaves it.
            with site.store.engine.begin() as connection:
                connection.exec_driver_sql("UPDATE workflow_status SET status = 'ENQUEUED'")
            site.start()
            assert site.ended_with() == status
            assert site.log().count(f"fedimg.publish:{waits}:1, begun by a version of fedimg") == 2
    (site.state / "go").touch()
    assert site.ended(waits).state == "complete"
