"""Bundles while S3 goes wrong by a plan: waited for, told as S3's, and never the region's outage.

Follows fedimg/aws/bundle/objects.py, fedimg/aws/client/retrying.py,
fedimg/aws/client/availability.py.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedimg.aws import cleanup, survey
from fedimg.aws.client import clients as clients_module
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.waiter import Waiter
from fedimg.config import Limits
from fedimg.exceptions import EC2ServiceException, EC2UtilityException
from fedimg.jobs.outages import Outages
from fedimg.services.ec2 import EC2Service
from fedimg.services.site import Coordination, Site
from fedimg.store.store import Store
from tests.plans import follow, struck
from tests.services.bundled import (
    FURTHER,
    bundling_settings,  # noqa: F401 (fixture)
    clean,
    keys,
    owner_pair,  # noqa: F401 (fixture)
)
from tests.services.conftest import ORIGIN, PATIENCE, SITE, Lab, Recorder

S3 = ["*Object*", "*Bucket*"]


def refused(code: str, **more: Any) -> dict[str, Any]:
    return {"fault": "refused", "code": code, "action": S3, **more}


@pytest.mark.parametrize(
    "fault",
    [
        refused("SlowDown", probability=0.4),
        refused("ServiceUnavailable", count=2),
        refused("InternalError", late=True, count=1),
        refused("RequestTimeout", action="PutObject", count=2),
        refused("OperationAborted", action="CopyObject", count=2),
        refused("BadDigest", action="PutObject", count=1),
        refused("ExpiredToken", skip=1, count=2),
        {"fault": "reset", "action": S3, "count": 1},
        {"fault": "reset", "action": S3, "late": True, "count": 1},
    ],
    ids=lambda fault: f"{fault.get('code', 'reset')}{' late' if fault.get('late') else ''}",
)
def test_passing_faults_of_s3_are_waited_for(
    lab: Lab, settings: dict[str, Any], fault: dict[str, Any]
) -> None:
    image, observer = lab.image(), Recorder()
    follow(lab, [fault], seed=1)
    limits = {"outage": PATIENCE, "wait_minimum": 0.05}
    result = lab.upload(image, observer, **settings, limits=limits)
    assert sum(struck(lab)) > 0
    follow(lab, [])
    assert result.failed == {}
    assert {len(amis) for amis in result.published.values()} == {2}
    assert "waiting for S3 to " in observer.words()
    assert "waiting for EC2" not in observer.words()
    clean(lab, image, settings)
    assert len(keys(lab, ORIGIN)) == len(keys(lab, FURTHER)) == 2


def test_time_out_of_s3_is_waited_for(
    lab: Lab, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients_module, "_READ_SECONDS", 2)
    image, observer = lab.image(), Recorder()
    observer.when["waiting for S3 to answer"] = lambda: follow(lab, [])
    follow(lab, [{"fault": "slow", "seconds": 100_000, "action": "PutObject"}])
    fresh = replace(lab, clients=Clients())
    result = fresh.upload(image, observer, **settings, limits={"outage": PATIENCE})
    assert result.failed == {}
    assert "waiting for S3 to answer" in observer.words()
    clean(lab, image, settings)


def test_s3_of_a_further_region_that_is_away_is_no_outage_of_the_region(
    lab: Lab, settings: dict[str, Any], tmp_path: Path
) -> None:
    image, store = lab.image(), Store(tmp_path / "store")
    outages = Outages(store, Limits())
    follow(lab, [{"fault": "reset", "action": S3, "region": FURTHER}])
    # A failed connection is an outage of a region after ten seconds.
    chosen = lab.settings(**settings, limits={"outage": 12})
    service = EC2Service(Site(chosen, SITE, (), lab.clients), Coordination(outages=outages))
    result = service.upload(image, Recorder())
    assert outages.away(FURTHER) is None
    store.close()
    assert set(result.published) == {ORIGIN}
    assert set(result.later) == {FURTHER}
    assert "could not reach S3" in result.failed[FURTHER]
    assert FURTHER in result.failed[FURTHER]
    follow(lab, [])
    result = lab.upload(image, rerun=True, **settings)
    assert set(result.published) == {ORIGIN, FURTHER}
    clean(lab, image, settings)


def test_region_that_is_away_with_its_s3_is_an_outage(
    lab: Lab, settings: dict[str, Any], tmp_path: Path
) -> None:
    image, observer, store = lab.image(), Recorder(), Store(tmp_path / "store")
    outages = Outages(store, Limits())
    away = [{"fault": "reset", "region": FURTHER}]
    observer.when[f"{FURTHER} bundle"] = lambda: follow(lab, away)
    chosen = lab.settings(**settings, limits={"outage": 36_000})
    service = EC2Service(Site(chosen, SITE, (), lab.clients), Coordination(outages=outages))
    result = service.upload(image, observer)
    assert outages.away(FURTHER) is not None
    store.close()
    assert "the job continues there when the region answers again" in result.failed[FURTHER]
    follow(lab, [])
    assert set(lab.upload(image, rerun=True, **settings).published) == {ORIGIN, FURTHER}
    clean(lab, image, settings)


@pytest.mark.parametrize(
    ("code", "words", "later"),
    [
        ("AccessDenied", "docs/aws-policy-instance-store.json", False),
        ("NoSuchBucket", "does not exist: make it", False),
        ("SlowDown", "S3 refused (PutObject|ListObjectsV2) with SlowDown", True),
    ],
)
def test_lasting_refusal_of_s3_is_told_as_such(
    lab: Lab, settings: dict[str, Any], code: str, words: str, later: bool
) -> None:
    image = lab.image()
    follow(lab, [refused(code, region=ORIGIN)])
    with pytest.raises(EC2UtilityException, match=words) as failure:
        lab.upload(image, **settings, limits={"outage": 1})
    assert (failure.value.later, failure.value.step) == (later, "bundle")
    assert "EC2 refused" not in str(failure.value)
    follow(lab, [])
    clean(lab, image, settings)
    assert lab.live() == []


def test_clean_up_removes_the_rest_where_s3_is_away(lab: Lab, settings: dict[str, Any]) -> None:
    image = lab.image()
    follow(lab, [{"fault": "refused", "code": "InvalidParameterValue", "action": "RegisterImage"}])
    with pytest.raises(EC2ServiceException):
        lab.upload(image, **settings)
    assert {row["kind"] for row in lab.live()} >= {"snapshot", "object"}
    follow(lab, [refused("AccessDenied")])
    chosen, unseen = lab.settings(**settings), []
    found = survey.leftovers(
        lab.clients,
        SITE,
        [ORIGIN],
        job=image.job,
        bucket=chosen.instance_store.bucket_in,
        unseen=unseen.append,
    )
    cleanup.remove(lab.clients, Waiter(chosen.limits, threading.Event()), found, limit=60)
    assert {row["kind"] for row in lab.live()} == {"object"}
    (error,) = unseen
    assert "listing bundles: S3 refused ListObjectsV2 with AccessDenied" in str(error)
    assert ORIGIN in str(error)
    follow(lab, [])
    clean(lab, image, settings)
    assert lab.live() == []
