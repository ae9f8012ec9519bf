"""The show of `make demo`: one bus message becomes public AMIs, by the programs that do it live.

The site is the lab's; fedmsg-hub, fedimg's worker and fedimg's commands are installed programs that
are run, configured and asked as on any machine.
"""

import argparse
import collections
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lab.announcing import build_image, named
from lab.ec2.partitions import commercial
from lab.koji.announce import BUILD_TOPIC, MODNAME
from lab.leaks import forgotten, live, unpublished
from lab.processes import Process, ProcessError
from lab.running import SiteError, read, remove
from lab.site import Site, delays, shipped_policy

PROGRAMS = Path(sys.executable).parent
NAME, VERSION = "Fedora-Cloud-Base", "43"

HUB_SECONDS = 60.0
# `make demo` promises two minutes, of which the end and a slow machine need some.
JOB_SECONDS = 110.0
# Three emulated machines boot, two of them at once.
VM_JOB_SECONDS = 2400.0
# The outbox may still be on its way when the job is complete.
MESSAGES_SECONDS = 15.0
CLEANUP_SECONDS = 15.0
LOOK_SECONDS = 1.0
ENDED = ("complete", "incomplete", "failed", "cancelled")


class DemoError(Exception):
    """The demo did not end as it should; the text tells a person why."""


def run(arguments: argparse.Namespace) -> int:
    """`python -m lab demo`; 0 when every region has public AMIs and nothing else is left."""
    console = Console()
    if not console.is_terminal:
        # A file's lines may be long; a terminal's are what they are.
        console = Console(width=120)
    state: Path = arguments.state.absolute()
    remove(state)
    try:
        with _interruptible(), ExitStack() as running:
            demo = _Demo(state, console, running, arguments.vm)
            demo.show()
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started is stopped")
        return 130
    except (DemoError, ProcessError, SiteError, TimeoutError) as error:
        console.print(
            f"The demo failed: {error}\nAll logs are in {state / 'logs'}.",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return 1
    return 0


class _Demo:
    def __init__(self, state: Path, console: Console, running: ExitStack, vm: bool) -> None:
        self._console = console
        self._running = running
        self._began = time.monotonic()
        regions = commercial()
        self._say(f"starting a site in {state}: EC2 with {len(regions)} regions, Koji, fedmsg")
        self._site = running.enter_context(
            Site(state, delays=delays(1.0, regions), vm=vm, policy=shipped_policy())
        )
        self._patience = VM_JOB_SECONDS if vm else JOB_SECONDS
        self._heard = running.enter_context(self._site.bus.listen())

    def show(self) -> None:
        """Play it from the start to the table."""
        site = self._site
        hub = self._start("fedmsg-hub", site.bus.command("fedmsg-hub"))
        worker = self._start(
            "fedimg-worker",
            [str(PROGRAMS / "fedimg"), "--config", str(site.fedimg_config), "worker"],
        )
        release = time.strftime("%Y%m%d.0")
        folder, stem = site.state / "images", f"{NAME}-{VERSION}-{release}.x86_64"
        if site.image is None:
            image = build_image(folder, stem)
        else:
            image = named(site.image.packed, folder, stem)
        hub.wait_for("Running the MokshaHub reactor", HUB_SECONDS)
        worker.check()

        build = site.koji.add_build(NAME, VERSION, release, {"x86_64": [image]})
        self._say(f"Koji has built {build.nvr} ({image.stat().st_size / 2**20:.1f} MiB .raw.xz)")
        site.bus.publish(BUILD_TOPIC, site.koji.build_message(build.id), MODNAME)
        self._say(f"sent one message on the bus: {MODNAME}.{BUILD_TOPIC}, build {build.id}")

        job = self._follow((hub, worker))
        amis = self._fedimg("amis")
        self._await_messages(sum(1 for ami in amis if ami["public"]), len(amis))
        self._console.print(_table(amis))
        self._summary(job, amis)

    def _start(self, name: str, command: list[str]) -> Process:
        log = self._site.logs / f"{name}.log"
        if not Path(command[0]).exists():
            raise DemoError(f"{command[0]} is not there; install fedimg into this environment")
        process = Process(command, self._site.state, self._site.environment, log)
        self._say(f"started {name}, log {log}")
        return self._running.enter_context(process)

    def _follow(self, processes: tuple[Process, ...]) -> dict[str, Any]:
        """Show the job's progress until it has ended; the job's row."""
        deadline = time.monotonic() + self._patience
        jobs: list[dict[str, Any]] = []
        said, told = "", 0
        total = len(self._site.regions)
        with self._progress() as progress, ThreadPoolExecutor(1) as asking:
            bar = progress.add_task("waiting for the hub to take the message", total=total)
            asked = asking.submit(self._fedimg, "status")
            while True:
                for process in processes:
                    process.check()
                told = self._tell_messages(told)
                progress.update(bar, completed=len(self._public_regions()))
                if asked.done():
                    jobs = asked.result()
                    asked = asking.submit(self._fedimg, "status")
                for job in jobs:
                    before, said = said, _standing(job)
                    progress.update(bar, description=said)
                    if not self._console.is_terminal and said != before:
                        self._say(said)
                    if job["state"] == "complete":
                        return job
                    if job["state"] in ENDED:
                        raise DemoError(_explained(job, processes))
                if time.monotonic() > deadline:
                    where = _explained(jobs[0], processes) if jobs else _tails(processes)
                    raise DemoError(f"no complete job after {self._patience:.0f} s; {where}")
                time.sleep(LOOK_SECONDS)

    def _public_regions(self) -> set[str]:
        topic = "fedimg.image.publish"
        heard = [one for one in self._heard.messages if one["topic"].endswith(topic)]
        return {one["msg"]["destination"] for one in heard}

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("regions public"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def _tell_messages(self, told: int) -> int:
        """Say a line for each message since; of copies and publications, how many regions."""
        news = self._heard.messages[told:]
        many: collections.Counter[str] = collections.Counter()
        for envelope in news:
            topic, msg = envelope["topic"].split(".", 3)[3], envelope["msg"]
            if topic.startswith("fedimg.") and not msg.get("status"):
                many[topic] += 1
            elif topic.startswith("fedimg."):
                kind = (msg.get("extra") or {}).get("virt_type", "")
                self._say(f"  bus: {topic} {msg['status']} {msg['destination']} {kind}".rstrip())
        for topic, count in many.items():
            self._say(f"  bus: {topic} for {count} AMIs")
        return told + len(news)

    def _await_messages(self, public: int, amis: int) -> None:
        self._heard.wait_for("fedimg.image.publish", MESSAGES_SECONDS, count=public)
        if not amis or public != amis:
            raise DemoError(f"{public} of {amis} AMIs are public")

    def _summary(self, job: Mapping[str, Any], amis: list[dict[str, Any]]) -> None:
        site, say = self._site, self._console.print
        topics = collections.Counter(one["topic"].split(".", 3)[3] for one in self._heard.messages)
        # A job is complete before what it no longer needs is gone.
        deadline = time.monotonic() + CLEANUP_SECONDS
        while (left := unpublished(live(read(site.state)))) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - self._began
        for line in (
            "",
            f"Job {job['job']} is complete:",
            f"{len(amis)} public AMIs in {len({ami['region'] for ami in amis})} regions after "
            f"{seconds:.0f} s, and {len(self._heard.messages)} messages on the bus:",
        ):
            say(line, highlight=False, soft_wrap=True)
        for topic, count in sorted(topics.items()):
            say(f"  {count:4} {topic}", highlight=False)
        if left:
            raise DemoError(f"EC2 still holds {len(left)} unpublished things: {left[0]}, …")
        if problems := forgotten(live(read(site.state)), amis):
            raise DemoError(f"EC2 and fedimg's record contradict each other: {problems[0]}")
        say("EC2's ledger holds what was published and nothing else, and the record names it all.")
        fedimg = f"{PROGRAMS / 'fedimg'} --config {site.fedimg_config}"
        for line in (
            "",
            f"Everything lies in {site.state}: fedimg.toml, site.json, state/ (the database), "
            "logs/, koji/, ec2/.",
            "To look further:",
            f"  {fedimg} amis",
            f"  {fedimg} status",
            f"  {Path(sys.executable)} -m lab up --state build/site   # a site to play with",
        ):
            say(line, highlight=False, soft_wrap=True)

    def _fedimg(self, command: str) -> list[dict[str, Any]]:
        """Return what a fedimg command prints; nothing while it has no database yet."""
        asked = subprocess.run(
            [PROGRAMS / "fedimg", "--config", self._site.fedimg_config, command, "--json"],
            cwd=self._site.state,
            env=os.environ | self._site.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        try:
            answer = json.loads(asked.stdout)
        except ValueError as error:
            raise DemoError(
                f"fedimg {command} --json gave no JSON (status {asked.returncode}):\n"
                f"{asked.stdout}{asked.stderr}"
            ) from error
        return answer if isinstance(answer, list) else []

    def _say(self, text: str) -> None:
        since = time.monotonic() - self._began
        self._console.print(
            f"{since:5.1f} s  {text}", markup=False, highlight=False, soft_wrap=True
        )


def _standing(job: Mapping[str, Any]) -> str:
    """Return a job's progress as a line: its regions by the step that each is at."""
    if len(job["regions"]) == 1:
        (origin,) = job["regions"]
        return f"{origin['region']}: {origin['step']} {origin['detail']}".rstrip()
    steps = collections.Counter(row["step"] for row in job["regions"])
    regions = ", ".join(f"{count} {step}" for step, count in steps.most_common())
    return f"{job['state']}: {regions or job['step']}"


def _explained(job: Mapping[str, Any], processes: tuple[Process, ...]) -> str:
    regions = [f"{row['region']}: {row['error']}" for row in job["regions"] if row["error"]]
    lines = [f"job {job['job']} is {job['state']} at {job['step']}: {job['error']}", *regions]
    return "\n".join([*lines, _tails(processes)])


def _tails(processes: tuple[Process, ...]) -> str:
    return "\n".join(f"{process.name}: {process.tail()}" for process in processes)


def _table(amis: list[dict[str, Any]]) -> Table:
    # No wider than 80 characters, and never cut: what is read here is copied into commands.
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for column in ("Region", "AMI", "Architecture", "Virtualization", "Volume", "Public"):
        table.add_column(column, overflow="fold")
    for row in sorted(amis, key=lambda row: (row["region"], row["virt_type"], row["volume_type"])):
        table.add_row(
            row["region"],
            row["ami"],
            row["architecture"],
            row["virt_type"],
            row["volume_type"],
            "yes" if row["public"] else "no",
        )
    return table


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM acts like Ctrl-C, so that what was started is stopped."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
