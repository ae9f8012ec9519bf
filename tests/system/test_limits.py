"""The limits over all workers, counted from EC2's own records."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from lab.ec2.states import Delays
from tests.chaos.builds import Builds
from tests.plans import Told, ask
from tests.postgresql import PostgreSQL
from tests.system.deployment import Deployment
from tests.system.several import several, workers

ORIGIN, FURTHER = "us-east-1", "us-east-2"
WORKERS = 2
#: Places of one worker; together they are more than what else is limited.
JOBS = 2
UTILITIES = 2
COPIES = 1
IMAGES = 6
#: Calls a second; without a limit there would be more than twice as many.
CALLS = 5
#: What may come at once after a pause, in seconds' worth of calls: docs/scaling.md, "Limits".
BURST_SECONDS = 5
#: How long a call may be on its way, from where it is let through to where it is counted.
ON_ITS_WAY_SECONDS = 1

#: From when to when something was there, in seconds since the epoch.
Span = tuple[float, float]


def limited(**limits: int) -> Callable[[str], str]:
    """Return a fedimg.toml with these limits, for images of one AMI type."""
    lines = "".join(f"{name} = {value}\n" for name, value in limits.items())

    def configure(settings: str) -> str:
        settings = several(settings).replace("[ec2.limits]\n", f"[ec2.limits]\n{lines}")
        return f'{settings}\n[ec2.amis]\ntypes = ["hvm-gp2"]\n'

    return configure


def most(spans: Iterable[Span]) -> int:
    """Return how many there were at most at a time."""
    # Where one ends when another begins, the end comes first.
    turns = sorted(turn for begin, end in spans for turn in ((begin, 1), (end, -1)))
    there = found = 0
    for _, change in turns:
        there += change
        found = max(found, there)
    return found


def published(deployment: Deployment, count: int) -> None:
    """So many builds become public AMIs, and nothing else is left."""
    builds = Builds(deployment)
    messages = [builds.build() for _ in range(count)]
    for message in messages:
        builds.publish(message)
    jobs = deployment.ended(count)
    assert {(job["state"], job["error"]) for job in jobs} == {("complete", None)}
    live = deployment.live()
    assert all(row["public"] for row in live)
    images = [row for row in live if row["kind"] == "image"]
    assert len(images) == count * len(deployment.site.regions)


def ledger(deployment: Deployment) -> list[dict[str, Any]]:
    rows = ask(deployment.site.ec2, "ledger")
    return [row | {"at": datetime.fromisoformat(row["time"]).timestamp()} for row in rows]


def utilities(rows: list[dict[str, Any]]) -> list[Span]:
    """Return the life of each utility instance."""
    mine = [
        row
        for row in rows
        if row["kind"] == "instance" and row["tags"].get("fedimg:role") == "utility"
    ]
    begun = {row["id"]: row["at"] for row in mine if row["event"] == "create"}
    return [(begun[row["id"]], row["at"]) for row in mine if row["event"] == "delete"]


def copies(deployment: Deployment, region: str) -> list[Span]:
    """Return the duration of each copy into a region."""
    ec2 = boto3.client(
        "ec2",
        region,
        endpoint_url=deployment.site.ec2.url,
        aws_access_key_id=deployment.environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=deployment.environment["AWS_SECRET_ACCESS_KEY"],
    )
    made = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    return [(each["StartTime"].timestamp(), each["CompletionTime"].timestamp()) for each in made]


def jobs(rows: list[dict[str, Any]]) -> list[Span]:
    """Return the time in which each job made things: from the first to the last of them."""
    made: dict[str, list[float]] = {}
    for row in rows:
        if row["event"] == "create":
            made.setdefault(row["tags"]["fedimg:job"], []).append(row["at"])
    return [(min(times), max(times)) for times in made.values()]


@pytest.mark.long
def test_jobs_instances_and_copies_are_never_more_than_allowed(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    configure = limited(jobs=JOBS, utilities=UTILITIES, copies=COPIES)
    # Everything takes long enough to be waited for; an instance is gone when that is asked for.
    delays = Delays(instance_start=2.0, instance_terminate=0.0, snapshot_copy=2.0)
    with workers(
        tmp_path / "site",
        postgresql.blank(),
        WORKERS,
        configure,
        regions=(ORIGIN, FURTHER),
        delays=delays,
    ) as deployment:
        published(deployment, IMAGES)
        rows = ledger(deployment)
        # All were reached: without the limits there would have been more.
        assert most(jobs(rows)) == WORKERS * JOBS
        assert len(utilities(rows)) == IMAGES
        assert most(utilities(rows)) == UTILITIES
        assert len(copies(deployment, FURTHER)) == IMAGES
        assert most(copies(deployment, FURTHER)) == COPIES


class Counted:
    """The number of calls that a region had had by each time, with both ends of each reading."""

    def __init__(self, ec2: Told, region: str) -> None:
        self._ec2 = ec2
        self._region = region
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.looks: list[tuple[float, float, int]] = []

    @contextmanager
    def looking(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            before = time.monotonic()
            told = ask(self._ec2, "calls?by=region")
            calls = sum(told.get(self._region, {}).get("EC2", {}).values())
            self.looks.append((before, time.monotonic(), calls))


@pytest.mark.long
def test_limit_of_calls_a_second_is_divided_among_the_workers(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    with workers(
        tmp_path / "site",
        postgresql.blank(),
        WORKERS,
        limited(jobs=JOBS, calls=CALLS),
        regions=(ORIGIN,),
    ) as deployment:
        counted = Counted(deployment.site.ec2, ORIGIN)
        with counted.looking():
            published(deployment, 3)
        for number, (begin, _, before) in enumerate(counted.looks):
            for _, end, after in counted.looks[number + 1 :]:
                allowed = CALLS * (end - begin + BURST_SECONDS + ON_ITS_WAY_SECONDS)
                assert after - before <= allowed, f"{after - before} calls in {end - begin} s"
        # So many that two workers which knew nothing of each other would have been found out.
        assert counted.looks[-1][2] > 2 * CALLS * (BURST_SECONDS + ON_ITS_WAY_SECONDS)
