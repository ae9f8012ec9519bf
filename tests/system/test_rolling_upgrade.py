"""Workers of two versions, whose steps are not the same, on one PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

import fedimg
from fedimg.store import tables
from fedimg.worker.registry import RegisteredWorker
from tests.chaos.builds import Builds
from tests.postgresql import PostgreSQL
from tests.system.builds import said
from tests.system.deployment import Deployment
from tests.system.several import alive, workers

OLD, NEW = "one", "two"
#: Images that take seconds to write; of the second kind, as long as a worker takes to start.
SECONDS = {"size_mib": 256, "random_mib": 32}
LONG = {"size_mib": 512, "random_mib": 64}


@contextmanager
def newer(deployment: Deployment, folder: Path) -> Iterator[None]:
    """Let workers that start meanwhile say that they are a version with other steps."""
    package = folder / "fedimg"
    if not package.exists():
        shutil.copytree(Path(fedimg.__file__).parent, package)
        executor = package / "worker" / "executor.py"
        steps = executor.read_text()
        changed = steps.replace('\nVERSION = "1"\n', '\nVERSION = "2"\n')
        assert changed != steps
        executor.write_text(changed)
    deployment.environment["PYTHONPATH"] = str(folder)
    try:
        yield
    finally:
        del deployment.environment["PYTHONPATH"]


def member(deployment: Deployment, name: str) -> RegisteredWorker | None:
    """Return the row of a process in the workers' table."""
    return next((each for each in alive(deployment) if deployment.has(name, {each.pid})), None)


def start_newer(deployment: Deployment, folder: Path) -> None:
    """Start a worker of the newer version, and wait until it lives."""
    with newer(deployment, folder):
        deployment.start_worker(NEW)
    deployment.until(lambda: member(deployment, NEW), "the new version's worker living")


def until_at_work(deployment: Deployment, name: str) -> str:
    """Wait until a process has a job; return the job."""

    def look() -> str | None:
        mine = member(deployment, name)
        return mine.jobs[0][0] if mine and mine.jobs else None

    return deployment.until(look, f"{name} at work")


def all_well(deployment: Deployment, count: int) -> None:
    """All jobs are complete, their AMIs public and announced, and nothing else is left."""
    jobs = deployment.ended(count)
    assert {(job["state"], job["error"]) for job in jobs} == {("complete", None)}
    live = deployment.live()
    assert all(row["public"] for row in live)
    images = {row["id"] for row in live if row["kind"] == "image"}
    assert images == {ami["ami"] for ami in deployment.fedimg("amis")}
    deployment.heard.wait_for("image.publish", 240, count=len(images))
    assert {m["extra"]["id"] for m in said(deployment, "image.publish")} == images


def tries(deployment: Deployment) -> dict[str, int]:
    """Return how often each job was begun."""
    with deployment.store().engine.connect() as connection:
        rows = connection.execute(sa.select(tables.jobs.c.job, tables.jobs.c.tries))
        return {row.job: row.tries for row in rows}


def test_new_version_takes_what_is_new_and_leaves_the_old_ones_job_to_it(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    with workers(tmp_path / "site", postgresql.blank(), 1) as deployment:
        builds = Builds(deployment)
        second = builds.build()
        builds.announce(**LONG)
        first = until_at_work(deployment, OLD)
        start_newer(deployment, tmp_path / "newer")
        # The old one has three places left.
        builds.publish(second)
        until_at_work(deployment, NEW)
        old = member(deployment, OLD)
        assert old is not None
        assert [job for job, _ in old.jobs] == [first]
        deployment.fedimg("drain", old.name)
        assert deployment.ends(OLD) == 6
        all_well(deployment, 2)
        assert set(tries(deployment).values()) == {1}


@pytest.mark.long
def test_job_of_a_killed_old_worker_is_named_and_waits_for_its_own_version(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    with workers(tmp_path / "site", postgresql.blank(), 1) as deployment:
        builds = Builds(deployment)
        builds.announce(**SECONDS)
        job = until_at_work(deployment, OLD)
        start_newer(deployment, tmp_path / "newer")
        deployment.kill(OLD)
        told = f"{job}:1 were started by an incompatible fedimg version"
        deployment.until(lambda: told in deployment.log(NEW) or None, "the job named")
        assert told in deployment.noted("status")
        deployment.start_worker(OLD)
        all_well(deployment, 1)
        assert tries(deployment) == {job: 2}


@pytest.mark.long
def test_upgrade_can_be_taken_back(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with workers(tmp_path / "site", postgresql.blank(), 1) as deployment:
        assert deployment.stop(OLD) == 0
        start_newer(deployment, tmp_path / "newer")
        assert deployment.stop(NEW) == 0
        deployment.start_worker(OLD)
        builds = Builds(deployment)
        builds.announce(**SECONDS)
        job = until_at_work(deployment, OLD)
        deployment.kill(OLD)
        # It has the name of the one that was killed, and must not take that one's job for its own.
        with newer(deployment, tmp_path / "newer"):
            deployment.start_worker(NEW)
        assert deployment.ends(NEW) == 2
        assert f"an incompatible fedimg version started fedimg.publish:{job}:1" in deployment.log(
            NEW
        )
        deployment.start_worker(OLD)
        all_well(deployment, 1)
        assert tries(deployment) == {job: 2}
