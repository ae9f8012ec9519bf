"""A site whose worker is a whole process with a stand-in for EC2Service."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fedimg.images import Architecture, RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.store.rows import JobRow, is_active
from fedimg.store.store import Store
from fedimg.worker.registry import Registry
from tests.silent_relay import SILENT_RELAY

URL = "https://koji.example.org/Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"


#: In seconds; on an idle machine nothing here takes a tenth of it.
PATIENCE = 240.0


#: The build's name of an image says how its job fares; no job makes anything in EC2.
WORKER = """
import logging
import socket
import sys
from pathlib import Path

from fedimg.config import Settings
from fedimg.exceptions import Cancelled, EC2ServiceException
from fedimg.images import AMI, AMIType, Virtualization
from fedimg.services.outcome import Result
from fedimg.worker import job_cleanup, job_workflows, process

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

        if image.build == "half":
            if (state / "go").exists():
                raise EC2ServiceException("the plan is refused")
            ami = AMI("ami-1", "half", "us-east-1", AMIType(Virtualization.HVM, "gp2"), "snap-1")
            observer.registered(ami)
            observer.published(ami)
            return Result(failed={"eu-west-1": "not yet"}, later=["eu-west-1"])
        if image.build == "final":
            # The first region is only full; the others need a person.
            full = (state / "full").exists()
            with (state / "begun").open("a") as begun:
                print(image.build, file=begun)
            if full:
                observer.progress("eu-west-1", "no room", error="no room", needs=1)
            else:
                observer.progress("eu-west-1", "public")
            observer.progress("us-east-2", "failed for good", error="TagLimitExceeded")
            if (state / "go").exists():
                return Result()
            failed = {"us-east-2": "TagLimitExceeded"} | ({"eu-west-1": "full"} if full else {})
            return Result(failed=failed, later=["eu-west-1"] if full else [])
        if image.build == "full":
            if (state / "go").exists():
                raise EC2ServiceException("no plan for now", later=True)
            ami = AMI("ami-1", "full", "eu-west-1", AMIType(Virtualization.HVM, "gp2"), "snap-1")
            observer.registered(ami)
            observer.progress("eu-west-1", "no room", error="no room", needs=1)
            raise EC2ServiceException("no room", later=True, no_room=1)
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
job_workflows.EC2Service = Service
process.OutboxRelay = Relay


def leftovers(clients, site, regions, *, job, **more):
    if "unclean" in job and not (state / "go").exists():
        raise KeyError("unforeseen")
    return []


job_cleanup.survey.leftovers = leftovers
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
