"""fedimg as it is deployed, beside a lab site: hub and worker as processes, and the bus heard."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from fedimg.cli.job_output import job_value
from fedimg.store.rows import CLEANING, ENDED, JobRow
from fedimg.store.store import Store
from lab import disk, leaks
from lab.bus import Heard
from lab.processes import Process
from lab.site import Site
from tests.plans import ask

BIN = Path(sys.executable).parent
#: A few regions keep a test short; us-east-1 and eu-west-1 have PV, us-east-2 has not.
REGIONS = ("us-east-1", "us-east-2", "eu-west-1")
AMIS = {"us-east-1": 4, "us-east-2": 2, "eu-west-1": 4}
#: No wait of these tests takes a tenth of this on an idle machine.
PATIENCE = 240.0

T = TypeVar("T")


def unhurried(settings: str) -> str:
    """Let no limit of the site end what a busy machine has no processor for yet."""
    limits = "instance_running|instance_gone|ssh_ready|write_idle|snapshot|copy|image"
    return re.sub(
        rf"(?m)^({limits}) = (\d+)$", lambda row: f"{row[1]} = {max(200, int(row[2]))}", settings
    )


def impatient(settings: str) -> str:
    """Let a machine that never boots be given up sooner than an operator would."""
    return re.sub(r"ssh_ready = \d+", "ssh_ready = 20", unhurried(settings))


class Deployment:
    """One site and one fedimg on it, whose fedimg.toml `configure` changes; `patience` is its
    longest wait, in seconds.
    """

    def __init__(
        self,
        site: Site,
        heard: Heard,
        configure: Callable[[str], str] = unhurried,
        patience: float = PATIENCE,
        database: str = "",
    ) -> None:
        self.site = site
        self.database = database
        self.heard = heard
        self.patience = patience
        self.environment = {**os.environ, **site.environment}
        settings = site.fedimg_config
        shared = f'database = "{database}"\n' if database else ""
        settings.write_text(shared + configure(settings.read_text()))
        self._store: Store | None = None
        self._processes: dict[str, Process] = {}

    # Processes

    def start(self, name: str, *command: str) -> Process:
        """Start a process of the deployment, which ends with us; its output goes to a log."""
        process = Process(command, self.site.state, self.environment, self._log_file(name))
        self._processes[name] = process
        return process

    def start_hub(self) -> None:
        """Start fedmsg-hub, and wait until KojiConsumer listens and the hub runs."""
        before = self.log("hub").count("KojiConsumer")
        hub = self.start("hub", *self.site.bus.command("fedmsg-hub"))
        self.until(
            lambda: self.log("hub").count("KojiConsumer") > before or None, "the hub listening"
        )
        # With its reactor come its handlers of signals; systemd is told then.
        self.until(lambda: _catches(hub.pid, signal.SIGTERM) or None, "the hub running")

    def start_worker(self, name: str = "worker") -> Process:
        """Start `fedimg worker`."""
        return self.start(name, str(BIN / "fedimg"), "worker")

    def freeze(self, name: str) -> None:
        """Let a process stand still."""
        os.kill(self.pid(name), signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let a frozen process go on."""
        os.kill(self.pid(name), signal.SIGCONT)

    def kill(self, name: str) -> None:
        """Kill a process as a power cut does."""
        self._processes.pop(name).kill()

    def stop(self, name: str) -> int:
        """Stop a process as systemd does; its exit status."""
        return self._processes.pop(name).terminate(PATIENCE)

    def ends(self, name: str) -> int:
        """Wait for a process that ends by itself; return its exit status."""
        process = self._processes.pop(name)
        deadline = time.monotonic() + PATIENCE
        while process.running:
            assert time.monotonic() < deadline, f"{name} did not end:\n{self.log(name)[-3000:]}"
            time.sleep(0.1)
        assert process.status is not None
        return process.status

    def runs(self, name: str) -> bool:
        """Return whether a process has not ended."""
        return self._processes[name].running

    def pid(self, name: str) -> int:
        """Return the number of a running process."""
        return self._processes[name].pid

    def has(self, name: str, pids: Container[int]) -> bool:
        """Return whether a process of that name runs under one of these numbers."""
        return name in self._processes and self._processes[name].pid in pids

    def reap(self) -> dict[str, int]:
        """Return the exit statuses of processes that have ended by themselves; forget them."""
        ended = {n: p.status for n, p in self._processes.items() if p.status is not None}
        for name in ended:
            del self._processes[name]
        return ended

    def close(self) -> None:
        """End what still runs."""
        for name in list(self._processes):
            self.kill(name)
        if self._store is not None:
            self._store.close()

    def log(self, name: str) -> str:
        """Return the output of a process so far."""
        path = self._log_file(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def _log_file(self, name: str) -> Path:
        return self.site.logs / f"{name}.log"

    # The operator

    def fedimg(self, *arguments: str, status: int | None = 0) -> Any:
        """Run a fedimg command; return the JSON that it prints."""
        done = self._command(*arguments, "--json")
        assert status is None or done.returncode == status, done.stderr + done.stdout
        return json.loads(done.stdout) if done.stdout.strip() else None

    def told(self, *arguments: str) -> str:
        """Run a fedimg command; return its answer to a person."""
        return self._command(*arguments).stdout

    def noted(self, *arguments: str) -> str:
        """Run a fedimg command; return its messages to a person beside the answer."""
        return self._command(*arguments).stderr

    def _command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "fedimg", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=self.patience,
        )

    def store(self) -> Store:
        """Open the database itself, as frequent looks must not cost what a command does."""
        if self._store is None:
            self._store = Store(self.site.state / "state", self.database)
        return self._store

    def jobs(self) -> list[JobRow]:
        """Return the jobs as the database has them; none while nothing has made it."""
        if not self.database and not (self.site.state / "state" / "fedimg.db").exists():
            return []
        return self.store().jobs()

    def until(self, look: Callable[[], T | None], what: str, patience: float | None = None) -> T:
        """Return the first answer of `look` that is neither None nor False."""
        patience = patience or self.patience
        deadline = time.monotonic() + patience
        while (answer := look()) is None or answer is False:
            # A copy: what strikes in the middle of a call does so in a thread of its own.
            processes = dict(self._processes)
            dead = {n: p.status for n, p in processes.items() if not p.running}
            logs = "\n".join(f"--- {n}\n{self.log(n)[-3000:]}" for n in processes)
            assert not dead, f"ended by themselves: {dead}\n{logs}"
            assert time.monotonic() < deadline, f"{what}: not within {patience} s\n{logs}"
            time.sleep(0.2)
        return answer

    def ended(self, count: int = 1) -> list[dict[str, Any]]:
        """Return the rows of `fedimg status --json`, when there are `count` and each has ended.

        They are made here: the command's own process takes most of a second of a processor.
        """

        def look() -> bool | None:
            jobs = self.jobs()
            over = [job for job in jobs if job.state in ENDED and job.step != CLEANING]
            return True if len(over) == count == len(jobs) else None

        self.until(look, f"{count} jobs ended")
        return [json.loads(json.dumps(job_value(row))) for row in self.jobs()]

    # Koji

    def image(self, name: str, **attributes: Any) -> Path:
        """Return a raw image of the lab, compressed as Koji does: a file of the test's own.

        It is as small as one can be where `attributes` say nothing else.
        """
        folder = self.site.state / "made"
        folder.mkdir(exist_ok=True)
        packed = folder / f"{name}.raw.xz"
        packed.write_bytes(_packed(**{"size_mib": 24, "random_mib": 1, **attributes}))
        return packed

    # EC2's own word

    def live(self) -> list[dict[str, Any]]:
        """Return the resources in the account, as the lab's ledger has them."""
        return [
            row for row in ask(self.site.ec2, "ledger/live") if row.get("state") != "terminated"
        ]

    def nothing_but_published(self, amis: dict[str, int]) -> None:
        """Expect these numbers of public AMIs in the ledger, one snapshot a region, and no more."""
        live = self.live()
        images = [row for row in live if row["kind"] == "image"]
        assert {r: sum(1 for i in images if i["region"] == r) for r in amis} == amis, images
        assert len(images) == sum(amis.values())
        assert all(row["public"] for row in images)
        snapshots = [row for row in live if row["kind"] == "snapshot"]
        assert sorted(row["region"] for row in snapshots) == sorted(amis), snapshots
        assert all(row["public"] for row in snapshots)
        rest = [row for row in live if row["kind"] not in ("image", "snapshot")]
        assert rest == []
        record = [asdict(row) for row in self.store().amis()]
        assert leaks.forgotten(leaks.things(live), record) == []


@contextmanager
def deployed(
    state: Path,
    environment: Mapping[str, str] | None = None,
    *,
    configure: Callable[[str], str] = unhurried,
    patience: float = PATIENCE,
    **site: Any,
) -> Iterator[Deployment]:
    """Run a site with fedimg's hub and worker, which have `environment` besides the site's;
    `configure` changes its fedimg.toml.
    """
    with ExitStack() as running:
        site.setdefault("regions", REGIONS)
        lab = running.enter_context(Site(state, **site))
        heard = running.enter_context(lab.bus.listen())
        deployment = Deployment(lab, heard, configure, patience)
        deployment.environment |= environment or {}
        running.callback(deployment.close)
        deployment.start_worker()
        deployment.start_hub()
        yield deployment


@lru_cache(maxsize=4)
def _packed(**attributes: Any) -> bytes:
    """Return a packed image: equal attributes give equal bytes, and xz takes seconds for them."""
    with tempfile.TemporaryDirectory() as folder:
        raw = disk.make_image(Path(folder, "image.raw"), **attributes)
        return disk.compress(raw).read_bytes()


def _catches(pid: int, number: signal.Signals) -> bool:
    """Return whether a process handles a signal itself (proc(5), SigCgt)."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
