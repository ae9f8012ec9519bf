"""fedimg's own processes on a lab site, both as on any machine, and what they cost."""

import itertools
import json
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import zmq

from bench import recording, site_process
from bench.processes import cpu_seconds, memory_mib
from fedimg.store.rows import CLEANING, ENDED, JobRow
from fedimg.store.store import Store
from lab import running
from lab.announcing import build_image
from lab.koji.announce import MODNAME
from lab.processes import Process

T = TypeVar("T")

_releases = itertools.count(1)

#: Nothing takes so long, on a busy machine neither.
PATIENCE = 1800.0
_LOOK_SECONDS = 0.1
#: Looking at all jobs is work for the machine that is measured.
_JOBS_LOOK_SECONDS = 1.0
ZERO = {
    "instance_start": 0.0,
    "instance_stop": 0.0,
    "instance_terminate": 0.0,
    "snapshot": 0.0,
    "snapshot_copy": 0.0,
    "image": 0.0,
    "volume": 0.0,
}


@dataclass
class Deployment:
    """One fedimg on one site."""

    folder: Path
    site: dict[str, Any]
    calls_file: Path
    worker: Process
    _store: Store | None = None

    def build(self) -> Path:
        """Make an image that no other build has, packed as Koji packs."""
        stem = f"Fedora-Cloud-Base-43-2026.{next(_releases)}.x86_64"
        return build_image(self.folder, stem)

    def announce(self, images: Sequence[Path]) -> float:
        """Have Koji build these images and tell the bus; when the first message was on it."""
        added = []
        for image in images:
            name = image.name.removesuffix(".x86_64.raw.xz")
            base, version, release = name.rsplit("-", 2)
            added.append(
                running.call(
                    self.site,
                    "koji.add_build",
                    name=base,
                    version=version,
                    release=release,
                    owner="releng",
                    method="image",
                    files={"x86_64": [str(image)]},
                )
            )
        with _first_heard(self.site["relay"]["outbound"]) as heard:
            for build in added:
                running.call(
                    self.site,
                    "bus.publish",
                    topic=build["topic"],
                    message=build["message"],
                    modname=MODNAME,
                )
            return self.until(lambda: heard[0] if heard else None)

    def ended(self, count: int, states: Collection[str] = ("complete",)) -> list[JobRow]:
        """Wait until `count` jobs and their clean-ups have ended in this state; return the jobs."""

        def look() -> list[JobRow] | None:
            jobs = self.jobs()
            over = [job for job in jobs if job.state in ENDED and job.step != CLEANING]
            return jobs if len(over) == count == len(jobs) else None

        jobs = until(look, self.worker.check, _JOBS_LOOK_SECONDS)
        for job in jobs:
            if job.state not in states:
                raise RuntimeError(f"job {job.job} is {job.state}: {job.error}")
        return jobs

    def calls(self) -> list[recording.Call]:
        """Return the calls so far, in their order."""
        return recording.read(self.calls_file)

    def ec2_calls(self) -> list[recording.Call]:
        """Return the calls to EC2 so far, without those to other services."""
        return [call for call in self.calls() if call.action]

    def public_at(self, count: int, states: Collection[str] = ("complete",)) -> float:
        """Return when the last AMI of `count` jobs became public; all jobs have ended then."""
        self.ended(count, states)
        published = [call for call in self.calls() if call.action == "ModifyImageAttribute"]
        return max(call.ended for call in published)

    def public_amis(self) -> int:
        """Return how many AMIs are public, by EC2's own records."""
        rows = running.ask(self.site, "ledger/live")
        return sum(1 for row in rows if row["kind"] == "image" and row["public"])

    def further_worker(self, number: int) -> Process:
        """One more worker on the same database, not recorded."""
        environment = {**self.site["environment"], "FEDIMG_CONFIG": self.site["fedimg_config"]}
        log = self.folder / "logs" / f"further-{time.monotonic_ns()}-{number}.log"
        program = str(Path(sys.executable).parent / "fedimg")
        return Process([program, "worker"], Path.cwd(), environment, log)

    def cpu_seconds(self) -> float:
        """Processor time that the worker has used."""
        return cpu_seconds(self.worker.pid)

    def memory_mib(self) -> float:
        """Return the most memory that the worker has held."""
        return memory_mib(self.worker.pid, "VmHWM")

    def until(self, look: Callable[[], T | None]) -> T:
        """Return the first answer of `look` that is not None."""
        return until(look, self.worker.check)

    def jobs(self) -> list[JobRow]:
        """Return the jobs as the database has them; none while nothing has made it."""
        store = self.store()
        return [] if store is None else store.jobs()

    def store(self) -> Store | None:
        """Return the worker's database, or None while nothing has made it."""
        if self._store is None:
            with open(self.site["fedimg_config"], "rb") as file:
                settings = tomllib.load(file)
            directory, url = Path(settings["state_directory"]), settings.get("database", "")
            if not url and not (directory / "fedimg.db").exists():
                return None
            self._store = Store(directory, url)
        return self._store


@contextmanager
def site(
    *,
    regions: int,
    delays: Mapping[str, Any] = ZERO,
    boot_seconds: float = 0.0,
    within: Path | None = None,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Run a lab site in a process of its own; yield its folder and its description.

    The folder, where the volumes are, is made in `within`, or where temporary files go.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", dir=within) as temporary:
        folder = Path(temporary)
        told = {"regions": regions, "delays": dict(delays), "boot_seconds": boot_seconds}
        command = [sys.executable, "-m", "bench.site_process", str(folder), json.dumps(told)]
        with Process(command, Path.cwd(), {}, folder / "site.log") as process:
            process.wait_for(site_process.READY, PATIENCE)
            yield folder, running.read(folder)


@contextmanager
def deployed(
    folder: Path,
    told: Mapping[str, Any],
    settings: str = "",
    changes: Mapping[str, str] = {},
    program: Sequence[str] = (),
) -> Iterator[Deployment]:
    """fedmsg-hub and a recorded worker on a site; or a worker by another `program`, a module.

    `changes` replace text of the site's fedimg.toml, and `settings` are appended to it.
    """
    site = dict(told)
    text = Path(site["fedimg_config"]).read_text()
    for old, new in changes.items():
        if old not in text:
            raise ValueError(f"the lab's fedimg.toml has no {old!r}")
        text = text.replace(old, new)
    number = len(list(folder.glob("fedimg-*.toml")))
    config = folder / f"fedimg-{number}.toml"
    state = folder / f"state-{number}"
    config.write_text(
        "\n".join(
            f'state_directory = "{state}"' if line.startswith("state_directory") else line
            for line in text.splitlines()
        )
        + f"\n{settings}\n"
    )
    site["fedimg_config"] = str(config)
    environment = {**site["environment"], "FEDIMG_CONFIG": str(config)}
    calls = folder / f"calls-{number}"
    logs = folder / "logs"
    with (
        Process(
            [sys.executable, "-m", *(program or ("bench.recording", str(calls))), "worker"],
            Path.cwd(),
            environment,
            logs / f"worker-{number}.log",
        ) as worker,
        Process(site["fedmsg_hub"], folder, environment, logs / f"hub-{number}.log") as hub,
    ):
        hub.wait_for("Running the MokshaHub reactor", PATIENCE)
        worker.wait_for("started (site", PATIENCE)
        # ZeroMQ offers no way to see a subscription arrive.
        time.sleep(1)
        yield Deployment(folder, site, calls, worker)


def until(
    look: Callable[[], T | None],
    check: Callable[[], None] = lambda: None,
    pause: float = _LOOK_SECONDS,
) -> T:
    """Return the first answer of `look` that is not None; `check` raises when none will come."""
    deadline = time.monotonic() + PATIENCE
    while (answer := look()) is None:
        check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE} s")
        time.sleep(pause)
    return answer


@contextmanager
def _first_heard(outbound: str) -> Iterator[list[float]]:
    """Return the time of a build's first announcement on the bus, once it was there."""
    heard: list[float] = []
    over = threading.Event()
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.setsockopt(zmq.LINGER, 0)
        subscriber.subscribe(b"org.fedoraproject.dev.buildsys")
        subscriber.connect(outbound)

        def listen() -> None:
            while not over.is_set() and not heard:
                if subscriber.poll(50):
                    heard.append(time.monotonic())

        thread = threading.Thread(target=listen)
        # Subscriptions travel to the publisher, unseen.
        time.sleep(0.3)
        thread.start()
        try:
            yield heard
        finally:
            over.set()
            thread.join()
