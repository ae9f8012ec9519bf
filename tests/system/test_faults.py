"""EC2 goes away under a whole fedimg and comes back: nobody has to do anything."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.site import Site
from tests.plans import follow
from tests.system.deployment import AMIS, REGIONS, Deployment
from tests.system.test_main_path import announce_build, said

AWAY = "eu-west-1"
#: The others, while that one is away.
REST = {region: count for region, count in AMIS.items() if region != AWAY}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Deployment]:
    """A site where little is waited for, and jobs run again soon."""
    with Site(tmp_path / "site", regions=REGIONS) as lab, lab.bus.listen() as heard:
        deployment = Deployment(lab, heard)
        config = lab.fedimg_config.read_text()
        limits = "settle = 5\noutage = 2\nretry_after = 1\nretries = 60\n"
        lab.fedimg_config.write_text(re.sub(r"\[ec2\.limits\]\n", rf"\g<0>{limits}", config))
        yield deployment
        deployment.close()


def test_region_that_was_away_gets_its_amis_by_itself(site: Deployment) -> None:
    url = site.site.ec2.url
    follow(url, [{"fault": "reset", "region": AWAY}])
    site.start_worker()
    site.start_hub()
    announce_build(site)

    def waits() -> bool | None:
        jobs = site.jobs()
        return bool(jobs and jobs[0].state == "incomplete" and jobs[0].next) or None

    site.until(waits, "the job incomplete, and to run again")
    assert AWAY in (site.jobs()[0].error or "")
    assert len([row for row in site.live() if row["kind"] == "image"]) == sum(REST.values())

    follow(url, [])
    site.until(lambda: site.jobs()[0].state == "complete" or None, "the job complete")
    (job,) = site.ended()
    assert job["error"] is None
    site.nothing_but_published(AMIS)
    site.heard.wait_for("image.publish", 60, count=sum(AMIS.values()))
    time.sleep(1)
    assert len(said(site, "image.publish")) == sum(AMIS.values())


def test_ec2_that_refuses_connections_is_waited_for_and_said(deployment: Deployment) -> None:
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
