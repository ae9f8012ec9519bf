"""Room for public AMIs is asked for before anything is copied; a copy that waits for it is kept.

Follows fedimg/services/region_steps.py, fedimg/aws/public_access.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fedimg.aws.client.clients import Clients
from fedimg.exceptions import EC2ServiceException
from fedimg.progress import NO_ROOM, OVER_QUOTA
from fedimg.services.ec2 import EC2Service
from fedimg.services.site import Coordination, Site
from tests.plans import follow
from tests.services.conftest import ORIGIN, PUBLIC_AMIS, REGIONS, SITE, Lab, Recorder

FURTHER, OTHER = "eu-west-1", "us-east-2"
SMALL: dict[str, Any] = {"amis": {"types": ["hvm-gp2"]}}
#: The calls that ask a region.
ASKED = (
    "GetImageBlockPublicAccessState",
    "GetSnapshotBlockPublicAccessState",
    "GetEbsEncryptionByDefault",
    "GetServiceQuota",
)


def last(observer: Recorder, region: str) -> str:
    """Return the last progress of a region."""
    return [told.detail for told in observer.of("progress") if told.region == region][-1]


def made(lab: Lab, region: str, kind: str = "snapshot") -> list[str]:
    return [row["id"] for row in lab.live(kind) if row["region"] == region]


def asked(lab: Lab) -> int:
    calls = lab.ask("calls")
    return sum(sum(by.get(name, 0) for name in ASKED) for by in calls.values())


@contextmanager
def encrypting(lab: Lab, region: str) -> Iterator[None]:
    lab.ec2(region).enable_ebs_encryption_by_default()
    try:
        yield
    finally:
        lab.ec2(region).disable_ebs_encryption_by_default()


def test_region_without_room_gets_no_copy_and_the_others_become_public(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    lab.account.quota(0, FURTHER)
    result = lab.upload(image, observer, **SMALL)
    assert set(result.published) == {ORIGIN, OTHER}
    assert set(result.failed) == {FURTHER}
    assert "of 0, 0 are used" in result.failed[FURTHER]
    assert last(observer, FURTHER).startswith(NO_ROOM)
    assert not lab.made_for(image, "snapshot")[2:]
    lab.account.quota(1, FURTHER)
    assert set(lab.upload(image, rerun=True, **SMALL).published) == set(REGIONS)


def test_nothing_is_written_where_no_region_has_room(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    lab.account.quota(0)
    with pytest.raises(EC2ServiceException, match="no room") as failure:
        lab.upload(image, observer, **SMALL)
    assert failure.value.no_room == 1
    assert failure.value.later
    assert {region for region in REGIONS if last(observer, region).startswith(NO_ROOM)} == {
        *REGIONS
    }
    for kind in ("instance", "volume", "snapshot", "image", "security-group"):
        assert lab.made_for(image, kind) == []


def test_origin_without_room_keeps_its_snapshot_and_holds_up_no_other_region(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    lab.account.quota(0, ORIGIN)
    result = lab.upload(image, observer, **SMALL)
    assert set(result.published) == {FURTHER, OTHER}
    assert last(observer, ORIGIN).startswith(NO_ROOM)
    written = made(lab, ORIGIN)
    lab.account.quota(1, ORIGIN)
    result = lab.upload(image, rerun=True, **SMALL)
    assert result.published[ORIGIN][0].snapshot in written
    assert made(lab, ORIGIN) == written


def test_copy_is_kept_for_the_quota_that_is_met_at_the_end(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    # Somebody else takes the room when the region has been asked already.
    observer.when[f"progress {FURTHER} register"] = lambda: lab.account.quota(0, FURTHER)
    result = lab.upload(image, observer, **SMALL)
    assert set(result.published) == {ORIGIN, OTHER}
    assert "no room for 1 more" in result.failed[FURTHER]
    assert last(observer, FURTHER).startswith(NO_ROOM)
    (copy,), (ami,) = made(lab, FURTHER), made(lab, FURTHER, "image")
    assert not {copy, ami} & set(lab.public())
    lab.account.quota(1, FURTHER)
    (published,) = lab.upload(image, rerun=True, **SMALL).published[FURTHER]
    assert (published.id, published.snapshot) == (ami, copy)


def test_quota_that_seems_to_have_room_is_told_apart(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    lab.refuse({FURTHER: {"ModifyImageAttribute": "ResourceLimitExceeded"}})
    result = lab.upload(image, observer, **SMALL)
    assert set(result.published) == {ORIGIN, OTHER}
    assert "ResourceLimitExceeded" in result.failed[FURTHER]
    assert last(observer, FURTHER).startswith(OVER_QUOTA)


def test_jobs_of_a_worker_ask_once_and_what_they_publish_counts(lab: Lab) -> None:
    service = EC2Service(Site(lab.settings(**SMALL), SITE, (), Clients()), Coordination())
    lab.forget_calls()
    for _ in range(2):
        assert service.upload(lab.image(), Recorder()).failed == {}
    assert asked(lab) == len(ASKED) * len(REGIONS)
    # Two of four are left by the worker's own count.
    for _ in range(PUBLIC_AMIS - 2):
        assert service.upload(lab.image(), Recorder()).failed == {}
    assert asked(lab) == len(ASKED) * len(REGIONS)
    with pytest.raises(EC2ServiceException, match="4 are used"):
        service.upload(lab.image(), Recorder())


@pytest.mark.parametrize("region", [ORIGIN, FURTHER])
def test_encryption_by_default_is_told_before_anything_is_made(lab: Lab, region: str) -> None:
    image = lab.image()
    with encrypting(lab, region):
        if region == ORIGIN:
            # What is written there is encrypted, and so is each copy of it.
            with pytest.raises(EC2ServiceException, match="encryption by default is on") as failure:
                lab.upload(image, **SMALL)
            assert not failure.value.later
            assert lab.made_for(image, "instance") == []
        else:
            result = lab.upload(image, **SMALL)
            assert set(result.published) == {ORIGIN, OTHER}
            assert "disable-ebs-encryption-by-default" in result.failed[region]
    assert [row for row in lab.made_for(image, "snapshot") if row["region"] == region] == []


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "InvalidAction"])
def test_what_cannot_be_asked_is_no_obstacle(lab: Lab, code: str) -> None:
    follow(lab, [{"fault": "refused", "code": code, "action": list(ASKED)}])
    assert lab.upload(lab.image(), **SMALL).failed == {}
