"""Builds that finish while nobody listens are published, once; by the worker, and by replay.

Follows fedimg/cli/entry_output.py.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedimg.intake.watermarks import Watermarks
from fedimg.sources.koji_listing import LISTS
from fedimg.store.store import Store
from lab.koji import Koji
from lab.koji.builds import METHODS
from lab.site import Site
from tests.system.deployment import BIN, PATIENCE, Deployment
from tests.system.proxy import Proxy

NAME, VERSION = "Fedora-Cloud-Base", "43"
REGIONS = ("us-east-1",)
DAY = 86400.0

#: A worker whose pages are short, and which gives an unanswered entry up after half a second in
#: place of a minute, and comes back to it after two.
HASTY = """
import sys
from fedimg.intake import deferred, image_selection
from fedimg.sources import koji_listing
koji_listing.PAGE = 5
image_selection.PATIENCE, image_selection.FIRST_PAUSE, deferred.FIRST_PAUSE = 0.5, 0.2, 2.0
from fedimg.cli.commands import main
sys.argv = ["fedimg", "worker"]
main()
"""


@contextmanager
def nobody_listens(state: Path) -> Iterator[Deployment]:
    """Run a site without a process of fedimg's."""
    with Site(state, regions=REGIONS) as site, site.bus.listen() as heard:
        deployment = Deployment(site, heard)
        try:
            yield deployment
        finally:
            deployment.close()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with nobody_listens(tmp_path / "site") as deployment:
        yield deployment


def start_hasty_worker(deployment: Deployment) -> None:
    deployment.start("worker", sys.executable, "-c", HASTY)


def configure(deployment: Deployment, old: str, new: str) -> None:
    path = deployment.site.fedimg_config
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@contextmanager
def stored(deployment: Deployment) -> Iterator[Store | None]:
    """Return the watermarks of the worker; nothing while there is no database."""
    folder = deployment.site.state / "state"
    if not (folder / "fedimg.db").exists():
        yield None
        return
    with closing(Store(folder)) as store:
        yield store


def seen(deployment: Deployment) -> bool | None:
    """Return whether the last reading of every list went well."""
    with stored(deployment) as store:
        looks = Watermarks(store).readings() if store else []
    good = {look.name for look in looks if look.succeeded and not look.error}
    return True if good == set(LISTS) else None


def asked(deployment: Deployment) -> dict[str, str]:
    """Every entry that was stored, and the state of its asking."""
    with stored(deployment) as store:
        if store is None:
            return {}
        with store.engine.connect() as connection:
            rows = connection.exec_driver_sql(
                "SELECT workflow_uuid, status FROM workflow_status WHERE name = 'fedimg.intake'"
            )
            return {row[0]: row[1] for row in rows}


def decided(deployment: Deployment) -> bool | None:
    """Return whether every stored entry was looked up."""
    return True if set(asked(deployment).values()) == {"SUCCESS"} else None


def no_image(deployment: Deployment, release: str) -> Path:
    """Serve a file that is quickly found to be no image, as these tests publish nothing."""
    file = deployment.site.state / f"{NAME}-{VERSION}-{release}.x86_64.raw.xz"
    file.write_text(file.name)
    return file


def built(deployment: Deployment, release: str, **about: Any) -> tuple[str, str]:
    """Add a build that nobody announces; return its entry, and its image's job."""
    files = {"x86_64": [no_image(deployment, release)]}
    build = deployment.site.koji.add_build(NAME, VERSION, release, files, **about)
    return f"build:{build.id}", f"build-{build.id}-{NAME}-{VERSION}-{release}.x86_64"


def scratch(deployment: Deployment, release: str, **about: Any) -> tuple[str, str]:
    """Add a scratch task that nobody announces; return the same."""
    koji = deployment.site.koji
    files = {"x86_64": [no_image(deployment, release)]}
    task = koji.add_task(NAME, VERSION, release, files, **about)
    (child,) = koji.records.children(task.id)
    return f"task:{task.id}", f"task-{child.id}-{NAME}-{VERSION}-{release}.x86_64"


def copies(koji: Koji, number: int, many: int) -> None:
    """More builds like one, a second apart: their records alone, which is all they are about."""
    one = koji.records.find_build(number)
    assert one is not None
    with koji.records.adding():
        for offset in range(1, many):
            release = f"{one.release}.{offset}"
            completed = koji.clock() + offset
            like = replace(one, id=number + offset, release=release, completed=completed)
            koji.records._builds[like.id] = like
        koji.records.add()
    koji.advance(many)


def test_entries_that_finished_while_nobody_listened_get_their_jobs(deployment: Deployment) -> None:
    koji = deployment.site.koji
    deployment.start_worker()
    deployment.until(lambda: seen(deployment), "the first look")
    assert deployment.stop("worker") == 0

    entries, jobs = set(), set()
    for method in METHODS:
        koji.advance(DAY)
        entry, job = built(deployment, f"{method}.b", method=method)
        entries.add(entry)
        jobs.add(job)
        if METHODS[method].child:
            entry, job = scratch(deployment, f"{method}.s", method=method)
            entries.add(entry)
            jobs.add(job)
    entries.add(built(deployment, "stranger", owner="mallory")[0])
    entries.add(scratch(deployment, "stranger.s", owner="mallory")[0])
    koji.advance(DAY)

    for _ in range(2):
        deployment.start_worker()
        deployment.until(lambda: len(deployment.jobs()) >= len(jobs) or None, "the jobs")
        deployment.until(lambda: decided(deployment), "all being asked")
        assert set(asked(deployment)) == entries
        assert {job.job for job in deployment.jobs()} == jobs
        deployment.kill("worker")


def test_worker_killed_during_catch_up_misses_nothing(tmp_path: Path) -> None:
    with nobody_listens(tmp_path / "site") as deployment:
        koji = deployment.site.koji
        # Some pages of what the hub says is none of ours.
        many = 18
        first, _ = built(deployment, "first", owner="mallory", method=None)
        number = int(first.removeprefix("build:"))
        copies(koji, number, many)
        koji.advance(60)
        entry, job = built(deployment, "last")
        with Proxy(koji.base_url) as proxy:
            configure(deployment, koji.hub_url, f"{proxy.url}/kojihub")
            pages = 0
            striking = threading.Lock()

            def strike(called: str) -> bool:
                nonlocal pages
                if called != "listBuilds":
                    return False
                with striking:
                    pages += 1
                    if pages not in (2, 4):
                        return False
                    deployment.kill("worker")
                    start_hasty_worker(deployment)
                return True

            proxy.before = strike
            start_hasty_worker(deployment)
            deployment.until(lambda: seen(deployment), "all being seen")
            assert pages > 4
            expected = {f"build:{number + offset}" for offset in range(many)} | {entry}
            deployment.until(lambda: decided(deployment), "all being asked")
            assert set(asked(deployment)) == expected
            assert [row.job for row in deployment.jobs()] == [job]


@pytest.mark.long
def test_announced_and_found_at_once_is_one_job(deployment: Deployment) -> None:
    koji, bus = deployment.site.koji, deployment.site.bus
    configure(deployment, "[ec2]\n", "[catch_up]\ninterval = 0.1\n\n[ec2]\n")
    deployment.start_worker()
    deployment.start_hub()
    file = deployment.image(f"{NAME}-{VERSION}-1.x86_64")
    build = koji.add_build(NAME, VERSION, "1", {"x86_64": [file]})
    bus.publish("build.state.change", koji.build_message(build.id), times=3)
    (row,) = deployment.ended()
    assert row["state"] == "complete"
    deployment.nothing_but_published({"us-east-1": 4})
    started = [
        m for m in deployment.heard.messages if m["msg"].get("status") == "started"
        and m["topic"].endswith("image.upload")
    ]  # fmt: skip
    assert len(started) == 1


@pytest.mark.long
def test_replay_queues_missed_entries(deployment: Deployment) -> None:
    koji = deployment.site.koji
    entry, job = built(deployment, "old")
    task, task_job = scratch(deployment, "old.s", owner="mallory")
    koji.advance(30 * DAY)
    deployment.start_worker()
    deployment.until(lambda: seen(deployment), "the first look")
    # A month ago is further back than a first look goes.
    assert asked(deployment) == {}

    shown = deployment.fedimg("replay", "--since", "60d", "--dry-run")
    assert [(row["entry"], row["before"], row["stored"]) for row in shown] == [
        (entry, "new", False),
        (task, "new", False),
    ]
    assert [(row["owner"], row["name"]) for row in shown] == [
        ("releng", f"{NAME}-{VERSION}-old"),
        ("mallory", "image"),
    ]
    assert asked(deployment) == {}
    assert deployment.fedimg("replay", "--since", "2w") == []

    shown = deployment.fedimg("replay", "--since", "60d")
    assert [row["stored"] for row in shown] == [True, True]
    deployment.until(lambda: len(deployment.jobs()) == 1 or None, "the job")
    deployment.until(lambda: decided(deployment), "both being asked")
    shown = deployment.fedimg("replay", "--since", "60d", "--dry-run")
    assert {row["entry"]: row["before"] for row in shown} == {entry: "taken", task: "empty"}
    # The policy has changed.
    deployment.stop("worker")
    configure(deployment, 'scratch_owners = ["ausil"]', 'scratch_owners = ["ausil", "mallory"]')
    deployment.start_worker()
    deployment.fedimg("replay", "--since", "60d")
    deployment.until(lambda: len(deployment.jobs()) == 2 or None, "the other job")
    assert {row.job for row in deployment.jobs()} == {job, task_job}

    refused = deployment.fedimg("replay", "--since", "soon", status=2)
    assert "36h" in refused["error"]
    koji.down()
    refused = deployment.fedimg("replay", "--since", "1d", status=1)
    assert "kojihub" in refused["error"]


def test_entries_at_which_koji_fails_delay_no_other_and_are_not_lost(
    deployment: Deployment,
) -> None:
    koji = deployment.site.koji
    # More than are asked for at once.
    poison, jobs = [], set()
    for number in range(25):
        entry, job = built(deployment, f"poison.{number}")
        koji.trouble(int(entry.removeprefix("build:")), "KeyError: 'extra'")
        poison.append(entry)
        jobs.add(job)
    _entry, good = built(deployment, "good")
    start_hasty_worker(deployment)
    deployment.until(lambda: {row.job for row in deployment.jobs()} == {good} or None, "the job")
    deployment.until(lambda: said_waiting(deployment) == set(poison) or None, "all waiting")

    for entry in poison:
        koji.trouble(int(entry.removeprefix("build:")))
    deployment.until(
        lambda: {row.job for row in deployment.jobs()} == jobs | {good} or None, "every job"
    )
    deployment.until(lambda: not said_waiting(deployment) or None, "none waiting")


def said_waiting(deployment: Deployment) -> set[str]:
    """Return the entries that `fedimg status` says wait for Koji."""
    done = subprocess.run(
        [BIN / "fedimg", "status"],
        env=deployment.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return {line.split()[0] for line in done.stderr.splitlines() if " waits for Koji" in line}
