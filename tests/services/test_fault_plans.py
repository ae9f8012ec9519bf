"""The complete plans of faults in docs/faults: what fedimg does under each is as the file says.

Follows docs/faults/*.toml and fedimg/services/ec2.py.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fedimg.config import Limits
from fedimg.jobs.outages import Outages
from fedimg.services.ec2 import EC2Service
from fedimg.services.outcome import Result
from fedimg.services.site import Coordination, Site
from fedimg.store.store import Store
from tests.plans import follow, struck
from tests.services.conftest import ORIGIN, REGIONS, SITE, Lab, Recorder

PLANS = Path(__file__).parent.parent.parent / "docs" / "faults"
STRUCK = "eu-west-1"
SETTINGS: dict[str, Any] = {
    "amis": {"types": ["hvm-gp2"]},
    # As an operator has it: longer than what the plans last.
    "limits": {"outage": 600, "attempts": 3},
}


def plan(name: str) -> Sequence[dict[str, Any]]:
    faults: list[dict[str, Any]] = tomllib.loads((PLANS / f"{name}.toml").read_text())["faults"]
    return faults


def publish(lab: Lab, outages: Outages, observer: Recorder | None = None) -> Result:
    service = EC2Service(
        Site(lab.settings(**SETTINGS), SITE, (), lab.clients), Coordination(outages=outages)
    )
    return service.upload(lab.image(), observer or Recorder())


@pytest.fixture
def outages(store: Store) -> Outages:
    return Outages(store, Limits())


def test_every_plan_has_a_test() -> None:
    names = {path.stem for path in PLANS.glob("*.toml")}
    assert names == {"expired-credentials", "used-up-quota", "hanging-region"}


def test_job_outlasts_expired_credentials(lab: Lab, outages: Outages) -> None:
    observer = Recorder()
    follow(lab, plan("expired-credentials"))
    result = publish(lab, outages, observer)
    assert set(result.published) == set(REGIONS)
    assert sum(struck(lab)) > 0
    assert "waiting for EC2 to accept the worker's credentials, since" in observer.words()


def test_used_up_quota_costs_its_region_alone_and_leaves_nothing_public_there(
    lab: Lab, outages: Outages
) -> None:
    follow(lab, plan("used-up-quota"))
    result = publish(lab, outages)
    assert set(result.published) == set(REGIONS) - {STRUCK}
    assert set(result.failed) == {STRUCK}
    assert "ResourceLimitExceeded" in result.failed[STRUCK]
    assert not [row for row in lab.live() if row["region"] == STRUCK and row["public"]]


def test_hanging_region_costs_its_region_alone_and_is_known_to_be_away(
    lab: Lab, outages: Outages
) -> None:
    follow(lab, plan("hanging-region"))
    result = publish(lab, outages)
    assert set(result.published) == set(REGIONS) - {STRUCK}
    assert ORIGIN in result.published
    assert result.later == [STRUCK]
    assert outages.away(STRUCK)
