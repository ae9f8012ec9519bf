"""A quota of public AMIs that is used up at the very end: what is copied waits for room, kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.plans import ask
from tests.system.builds import announce_build
from tests.system.deployment import AMIS, Deployment, deployed, impatient

FULL = "eu-west-1"


def often(settings: str) -> str:
    """Look for room every second."""
    limits = "jobs = 1\nsettle = 3\nretry_after = 1\n"
    return impatient(settings).replace("[ec2.limits]\n", f"[ec2.limits]\n{limits}")


def waiting(deployment: Deployment, count: int) -> dict[str, Any]:
    """Wait until the newest of so many jobs waits for room; return its row of `fedimg status`."""
    rows = deployment.ended(count)
    job = rows[-1]
    assert job["state"] == "incomplete", rows
    (region,) = (each for each in job["regions"] if each["region"] == FULL)
    assert region["step"] == "no room"
    assert f"{FULL} has no room for 4 more public AMIs" in region["error"]
    return dict(job)


def of_job(deployment: Deployment, job: str) -> list[dict[str, Any]]:
    """Return what a job has in the region without room."""
    return [
        row
        for row in deployment.live()
        if (row["region"], row["tags"].get("fedimg:job")) == (FULL, job)
    ]


def copies(deployment: Deployment, job: str) -> int:
    """Return how many snapshots were ever made for a job in the region without room."""
    return sum(
        (row["kind"], row["event"], row["region"], row["tags"].get("fedimg:job"))
        == ("snapshot", "create", FULL, job)
        for row in ask(deployment.site.ec2, "ledger")
    )


def test_what_is_copied_is_kept_for_the_quota_and_removed_when_the_job_is_cancelled(
    tmp_path: Path,
) -> None:
    with deployed(tmp_path / "site", configure=often) as deployment:
        announce_build(deployment)
        deployment.ended(1)
        # The worker has asked the region, and takes its word for some minutes.
        deployment.site.ec2.quota(AMIS[FULL], FULL)

        announce_build(deployment, image={"random_mib": 2}, release="2.1")
        job = waiting(deployment, 2)["job"]
        assert "has room for public AMIs" in deployment.told("status", job)
        kept = of_job(deployment, job)
        assert sorted(row["kind"] for row in kept) == ["image"] * 4 + ["snapshot"]
        assert not any(row["public"] for row in kept)
        assert deployment.fedimg("cleanup", "--dry-run") == []

        # It holds no place: with one place alone, another job ends, too; and it copies nothing.
        announce_build(deployment, image={"random_mib": 3}, release="3.1")
        other = waiting(deployment, 3)["job"]
        assert of_job(deployment, other) == []

        deployment.site.ec2.quota(2 * AMIS[FULL], FULL)
        complete = lambda: deployment.store().job(job).state == "complete" or None  # noqa: E731
        deployment.until(complete, "the job that waited longest complete")
        assert copies(deployment, job) == 1
        assert all(row["public"] for row in of_job(deployment, job))
        assert waiting(deployment, 3)["job"] == other

        deployment.site.ec2.quota(1000, FULL)
        deployment.until(
            lambda: all(row.state == "complete" for row in deployment.jobs()) or None, "all jobs"
        )
        deployment.site.ec2.quota(3 * AMIS[FULL], FULL)
        announce_build(deployment, image={"random_mib": 4}, release="4.1")
        last = waiting(deployment, 4)["job"]
        assert of_job(deployment, last)
        deployment.fedimg("cancel", last)
        deployment.until(lambda: not of_job(deployment, last) or None, "the job's copy removed")
        assert deployment.fedimg("cleanup", "--dry-run") == []
