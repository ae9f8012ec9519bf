"""EC2 goes away under a whole fedimg and comes back: nobody has to do anything."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.site import Site
from tests.plans import follow
from tests.system.builds import announce_build, said
from tests.system.deployment import AMIS, REGIONS, Deployment

AWAY = "eu-west-1"
#: The others, while that one is away.
REST = {region: count for region, count in AMIS.items() if region != AWAY}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Deployment]:
    """Run a site with short limits, whose jobs run again soon."""
    with Site(tmp_path / "site", regions=REGIONS) as lab, lab.bus.listen() as heard:
        deployment = Deployment(lab, heard)
        config = lab.fedimg_config.read_text()
        limits = "settle = 5\noutage = 2\nretry_after = 1\nretries = 60\n"
        lab.fedimg_config.write_text(re.sub(r"\[ec2\.limits\]\n", rf"\g<0>{limits}", config))
        yield deployment
        deployment.close()


def test_region_that_was_away_gets_its_amis_by_itself(site: Deployment) -> None:
    ec2 = site.site.ec2
    follow(ec2, [{"fault": "reset", "region": AWAY}])
    site.start_worker()
    site.start_hub()
    announce_build(site)

    def waits() -> bool | None:
        jobs = site.jobs()
        return bool(jobs and jobs[0].state == "incomplete" and jobs[0].next) or None

    site.until(waits, "the job incomplete, and to run again")
    assert AWAY in (site.jobs()[0].error or "")
    assert len([row for row in site.live() if row["kind"] == "image"]) == sum(REST.values())

    follow(ec2, [])
    site.until(lambda: site.jobs()[0].state == "complete" or None, "the job complete")
    (job,) = site.ended()
    assert job["error"] is None
    site.nothing_but_published(AMIS)
    site.heard.wait_for("image.publish", 240, count=sum(AMIS.values()))
    time.sleep(1)
    assert len(said(site, "image.publish")) == sum(AMIS.values())


def restart(site: Deployment, old: str, new: str) -> None:
    """Change the configuration, and have the worker read it."""
    config = site.site.fedimg_config
    assert old in config.read_text()
    site.stop("worker")
    config.write_text(config.read_text().replace(old, new, 1))
    site.start_worker()


@pytest.fixture
def patient(site: Deployment) -> Deployment:
    """One job at a time, and whoever waits for a region holds its place for hours."""
    config = site.site.fedimg_config
    text = config.read_text().replace("outage = 2\n", "outage = 36000\njobs = 1\n")
    config.write_text(text)
    return site


def incomplete(site: Deployment, count: int) -> None:
    """Wait until so many jobs have ended without the region, and will run again."""

    def look() -> bool | None:
        rows = [row for row in site.jobs() if row.state == "incomplete" and row.next]
        return len(rows) == count or None

    site.until(look, f"{count} jobs incomplete, and to run again")


@pytest.mark.long
def test_region_that_hangs_holds_up_no_further_job(patient: Deployment) -> None:
    site = patient
    ec2 = site.site.ec2
    follow(ec2, [{"fault": "slow", "seconds": 100_000, "region": AWAY}])
    site.start_worker()
    site.start_hub()
    announce_build(site)
    announce_build(site, release="2.1", image={"random_mib": 2})
    incomplete(site, 2)
    assert f"{AWAY} has been unavailable since" in site.noted("status")
    assert "when eu-west-1 is available again" in site._command("status").stdout
    live = [row for row in site.live() if row["kind"] == "image"]
    assert len(live) == 2 * sum(REST.values())
    assert all(row["public"] for row in live)

    follow(ec2, [])
    site.until(
        lambda: {row.state for row in site.jobs()} == {"complete"} or None, "both jobs complete"
    )
    assert {job["error"] for job in site.ended(2)} == {None}
    published = {region: 2 * count for region, count in AMIS.items()}
    live = [row for row in site.live() if row["kind"] == "image"]
    assert {r: sum(1 for i in live if i["region"] == r) for r in AMIS} == published
    assert all(row["public"] for row in site.live() if row["kind"] in ("image", "snapshot"))
    log = site.log("worker")
    assert log.count(f"region {AWAY} is unavailable;") == 1
    assert log.count(f"region {AWAY} answers again") == 1


@pytest.mark.long
def test_jobs_end_when_a_region_in_an_outage_is_excluded(patient: Deployment) -> None:
    site = patient
    denied = {"fault": "refused", "code": "AuthFailure", "region": AWAY, "action": "*"}
    follow(site.site.ec2, [denied])
    site.start_worker()
    site.start_hub()
    announce_build(site)
    incomplete(site, 1)
    restart(site, "[ec2]\n", f'[ec2]\nexclude_regions = ["{AWAY}"]\n')
    site.until(lambda: site.jobs()[0].state == "complete" or None, "the job complete")
    (job,) = site.ended()
    assert job["error"] is None
    site.nothing_but_published(REST)
    assert "clean-up failed" not in site.log("worker")
    assert site.log("worker").count("is no longer waited for") == 1
    said_of_it = site.noted("cleanup")
    assert f"region {AWAY} not cleaned up" in said_of_it
    assert job["job"] in said_of_it


def test_outage_of_all_of_ec2_is_waited_for_and_reported(deployment: Deployment) -> None:
    ec2 = deployment.site.ec2
    ec2.down()
    announce_build(deployment)

    def waits() -> bool | None:
        jobs = deployment.jobs()
        return (bool(jobs) and any("waiting for EC2" in r.detail for r in jobs[0].regions)) or None

    deployment.until(waits, "the job waiting for EC2")
    assert deployment.jobs()[0].state == "running"
    ec2.up()
    (job,) = deployment.ended()
    assert (job["state"], job["error"]) == ("complete", None)
    deployment.nothing_but_published(AMIS)
