"""A quota of public AMIs that is used up at the very end: what is copied waits for room, kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.plans import ask
from tests.system.builds import announce_build
from tests.system.deployment import AMIS, Deployment, deployed, unhurried

FULL = "eu-west-1"


def often(settings: str) -> str:
    """Look for room every second, and work on one job at a time."""
    limits = "jobs = 1\nsettle = 3\nretry_after = 1\n"
    return unhurried(settings).replace("[ec2.limits]\n", f"[ec2.limits]\n{limits}")


def made(deployment: Deployment, job: str, page: str = "ledger/live") -> list[dict[str, Any]]:
    """Return what a job has in the region without room, or with `ledger` all that it ever made."""
    rows = ask(deployment.site.ec2, page)
    where = [r for r in rows if (r["region"], r["tags"].get("fedimg:job")) == (FULL, job)]
    return [row for row in where if row.get("event", "create") == "create"]


def waiting(deployment: Deployment, count: int) -> str:
    """Wait until the newest of so many jobs waits for room; return its name."""
    rows = deployment.ended(count)
    job = rows[-1]
    assert job["state"] == "incomplete", rows
    (region,) = (each for each in job["regions"] if each["region"] == FULL)
    assert region["step"] == "no room"
    assert f"{FULL} has no room for 4 more public AMIs" in region["error"]
    return str(job["job"])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Deployment, str]]:
    """Run a site, and a job that has copied its image when somebody else takes the room."""
    with deployed(tmp_path / "site", configure=often) as deployment:
        announce_build(deployment)
        (queued,) = deployment.until(lambda: deployment.jobs() or None, "the job queued")
        deployment.until(lambda: made(deployment, queued.job) or None, "the region's copy")
        deployment.site.ec2.quota(0, FULL)
        job = waiting(deployment, 1)
        kept = made(deployment, job)
        assert sorted(row["kind"] for row in kept) == ["image"] * 4 + ["snapshot"]
        assert not any(row["public"] for row in kept)
        assert deployment.fedimg("cleanup", "--dry-run") == []
        yield deployment, job


@pytest.mark.long
def test_what_is_copied_is_kept_and_the_job_goes_on_by_itself_when_there_is_room(
    site: tuple[Deployment, str],
) -> None:
    deployment, job = site
    assert "has room for public AMIs" in deployment.told("status", job)
    # It holds no place: with one place alone another job ends, too; and that one copies nothing.
    announce_build(deployment, image={"random_mib": 2}, release="2.1")
    other = waiting(deployment, 2)
    assert made(deployment, other) == []

    deployment.site.ec2.quota(AMIS[FULL], FULL)
    complete = lambda: deployment.store().job(job).state == "complete" or None  # noqa: E731
    deployment.until(complete, "the job that waited longest complete")
    assert sorted(row["kind"] for row in made(deployment, job, "ledger")) == [
        *["image"] * 4,
        "snapshot",
    ]
    assert all(row["public"] for row in made(deployment, job))
    assert waiting(deployment, 2) == other


@pytest.mark.long
def test_what_is_kept_is_removed_when_the_job_is_cancelled(site: tuple[Deployment, str]) -> None:
    deployment, job = site
    deployment.fedimg("cancel", job)
    deployment.until(lambda: not made(deployment, job) or None, "the job's copy removed")
    rest = {region: count for region, count in AMIS.items() if region != FULL}
    deployment.until(
        lambda: deployment.store().job(job).step != "clean-up" or None, "the clean-up ended"
    )
    deployment.nothing_but_published(rest)
