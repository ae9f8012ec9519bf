"""`kill -9` of the worker at the worst moments: nothing is lost, made twice, or left behind."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from lab.site import Site
from tests.system.builds import announce_build, said
from tests.system.deployment import AMIS, REGIONS, Deployment
from tests.system.proxy import Proxy


def crashing(state: Path, action: str, nth: int, *, acted: bool) -> None:
    """Kill the worker at the nth call of an action, before EC2 sees it or after it has acted."""
    with Site(state, regions=REGIONS) as site, Proxy(site.ec2.url) as proxy:
        site.environment["AWS_ENDPOINT_URL"] = proxy.url
        with site.bus.listen() as heard:
            deployment = Deployment(site, heard)
            calls = 0
            striking = threading.Lock()

            def strike(called: str) -> bool:
                nonlocal calls
                if called != action:
                    return False
                with striking:
                    calls += 1
                    if calls != nth:
                        return False
                    deployment.kill("worker")
                    deployment.start_worker()
                return True

            setattr(proxy, "after" if acted else "before", strike)
            try:
                deployment.start_worker()
                deployment.start_hub()
                announce_build(deployment)
                (job,) = deployment.ended()
                assert calls >= nth, f"{action} was called {calls} times only"
                assert (job["state"], job["error"]) == ("complete", None)
                deployment.nothing_but_published(AMIS)
                amis = {ami["ami"] for ami in deployment.fedimg("amis")}
                assert len(amis) == sum(AMIS.values())
                heard.wait_for("image.publish", 240, count=len(amis))
                # A message may come twice after a crash; it then says the same.
                assert {m["extra"]["id"] for m in said(deployment, "image.publish")} == amis
            finally:
                deployment.close()


def moment(words: str, action: str, nth: int, *, acted: bool = True, long: bool = False) -> Any:
    """Return the moment of the nth call of an action; `make test` has four, and all kinds."""
    return pytest.param(action, nth, acted, id=words, marks=pytest.mark.long if long else ())


@pytest.mark.parametrize(
    ("action", "nth", "acted"),
    [
        moment("utility instance started, not recorded", "RunInstances", 1),
        moment("image written, no snapshot yet", "CreateSnapshot", 1, acted=False, long=True),
        moment("snapshot made, not recorded", "CreateSnapshot", 1),
        moment("half of the origin registered", "RegisterImage", 2, long=True),
        moment("test instance started, not recorded", "RunInstances", 2, long=True),
        moment("both copies started, not recorded", "CopySnapshot", 2),
        moment("first snapshot public", "ModifySnapshotAttribute", 1, long=True),
        moment("some AMIs public", "ModifyImageAttribute", 3),
        moment("cleaned up, not recorded", "DeleteSecurityGroup", 1, long=True),
    ],
)
def test_worker_killed_around_a_call_makes_nothing_twice(
    tmp_path: Path, action: str, nth: int, acted: bool
) -> None:
    crashing(tmp_path / "site", action, nth, acted=acted)


def test_worker_killed_during_the_write_leaves_nothing(deployment: Deployment) -> None:
    # Large enough that its writing takes seconds.
    announce_build(deployment, image={"size_mib": 512, "random_mib": 64})

    def writing() -> bool | None:
        jobs = deployment.jobs()
        return (bool(jobs) and any("written" in r.detail for r in jobs[0].regions)) or None

    deployment.until(writing, "the image being written")
    deployment.kill("worker")
    deployment.start_worker()
    (job,) = deployment.ended()
    assert job["state"] == "complete"
    deployment.nothing_but_published(AMIS)
