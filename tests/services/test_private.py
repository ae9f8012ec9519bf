"""Private jobs: AMIs and snapshots go to an audience, once they are tested, and to nobody else.

Follows fedimg/aws/share.py, fedimg/aws/offering.py, fedimg/aws/permissions.py,
fedimg/services/region_steps.py.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from fedimg.config import Check
from fedimg.exceptions import EC2ServiceException, EC2TestException
from fedimg.images import AMI
from fedimg.services.region_addition import RegionAddition
from fedimg.services.site import Coordination, Site
from fedimg.steps import PlainSteps
from fedimg.values.audience import Audience
from tests import plans
from tests.services.conftest import ORIGIN, SITE, Lab, Recorder

ACCOUNT = "210987654321"
ORGANIZATION = "arn:aws:organizations::123456789012:organization/o-exampleorg1"
UNIT = "arn:aws:organizations::123456789012:ou/o-exampleorg1/ou-exam-12345678"
AUDIENCE: dict[str, Any] = {
    "accounts": [ACCOUNT],
    "organizations": [ORGANIZATION],
    "organizational_units": [UNIT],
}
FURTHER = "eu-west-1"
PRIVATE: dict[str, Any] = {
    "public": False,
    "amis": {"types": ["hvm-gp2"]},
    "regions": [ORIGIN, FURTHER],
}


@pytest.fixture
def quota(lab: Lab) -> Iterator[Any]:
    """Set the quota of AMI sharing; it is as before after the test."""
    yield lab.account.sharing_quota
    lab.account.sharing_quota(1000)


def permissions(lab: Lab, ami: AMI) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return who may use an AMI, and who its snapshot."""
    ec2 = lab.ec2(ami.region)
    shown = ec2.describe_image_attribute(ImageId=ami.id, Attribute="launchPermission")
    of_snapshot = ec2.describe_snapshot_attribute(
        SnapshotId=ami.snapshot, Attribute="createVolumePermission"
    )
    return shown["LaunchPermissions"], of_snapshot["CreateVolumePermissions"]


def test_tested_amis_and_snapshots_go_to_the_audience_in_all_regions(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    steps = PlainSteps()
    result = lab.service(**PRIVATE, share=AUDIENCE).upload(image, observer, steps)
    assert set(result.published) == {ORIGIN, FURTHER}
    assert lab.public() == []
    for (ami,) in result.published.values():
        launch, volumes = permissions(lab, ami)
        assert launch == [
            {"UserId": ACCOUNT},
            {"OrganizationArn": ORGANIZATION},
            {"OrganizationalUnitArn": UNIT},
        ]
        assert volumes == [{"UserId": ACCOUNT}]
        tags = {tag["Key"]: tag["Value"] for tag in lab.described(ami)["Tags"]}
        assert tags["fedimg:shared"].startswith("20")
        assert tags["fedimg:tested"] == ORIGIN
        assert "fedimg:published" not in tags
    assert not observer.of("published")
    whom = "1 account, 1 organization and 1 organizational unit"
    assert [told.detail for told in observer.of("shared")] == [whom] * 2
    # Each is marked before it is shared, and after the boot check.
    told = [each.what for each in observer.told]
    assert told.index("test completed") < told.index("sharing") < told.index("shared")
    assert f"{FURTHER} shared with {whom}" in observer.words()
    # What is shared is no leftover.
    assert {row["id"] for row in lab.live("image")} == {
        ami.id for amis in result.published.values() for ami in amis
    }


def test_empty_audience_leaves_them_private_recorded_and_complete(lab: Lab) -> None:
    observer = Recorder()
    result = lab.upload(lab.image(), observer, **PRIVATE)
    assert set(result.published) == {ORIGIN, FURTHER}
    for (ami,) in result.published.values():
        assert permissions(lab, ami) == ([], [])
    assert [told.detail for told in observer.of("shared")] == ["nobody"] * 2


def test_image_that_fails_its_check_is_shared_with_nobody(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    failing = (Check(name="fails", command="/bin/false"),)
    with pytest.raises(EC2TestException):
        lab.upload(image, observer, checks=failing, **PRIVATE, share=AUDIENCE)
    assert not observer.of("sharing")
    assert not [row for row in lab.live() if row.get("shared")]
    lab.leaves_nothing(image)


def test_audience_beyond_the_quota_is_refused_before_anything_is_written(
    lab: Lab, quota: Any
) -> None:
    quota(2)
    with pytest.raises(EC2ServiceException) as caught:
        lab.upload(lab.image(), **PRIVATE, share=AUDIENCE)
    said = str(caught.value)
    assert f"is more than the quota of 2 of AMI sharing in {ORIGIN}" in said
    assert "L-70015FFA" in said
    assert ACCOUNT not in said
    assert lab.live() == []


def test_refusal_by_the_quota_is_told_in_words_and_leaves_no_mark(lab: Lab, quota: Any) -> None:
    image, observer = lab.image(), Recorder()
    observer.when["waiting for the boot check"] = lambda: quota(2)
    with pytest.raises(EC2ServiceException) as caught:
        lab.upload(image, observer, **PRIVATE | {"regions": [ORIGIN]}, share=AUDIENCE)
    said = str(caught.value)
    assert "is more than the quota of AMI sharing" in said
    assert "request a higher quota" in said
    assert ACCOUNT not in said
    assert observer.of("unpublished")
    lab.leaves_nothing(image)


@pytest.mark.parametrize("call", ["ModifyImageAttribute", "ModifySnapshotAttribute"])
def test_refusal_of_a_member_names_nobody(lab: Lab, call: str) -> None:
    image, observer = lab.image(), Recorder()
    members = [ACCOUNT, ORGANIZATION, UNIT] if call == "ModifyImageAttribute" else [ACCOUNT]
    quoted = f'Invalid attribute item value "{", ".join(members)}" for userId item type.'
    code = "InvalidAMIAttributeItemValue"
    refused = {"region": ORIGIN, "action": call, "fault": "refused", "code": code}
    plans.follow(lab, [{**refused, "message": quoted}])
    with pytest.raises(EC2ServiceException) as caught:
        lab.upload(image, observer, **PRIVATE | {"regions": [ORIGIN]}, share=AUDIENCE)
    told = [str(caught.value), observer.words(), *traceback.format_exception(caught.value)]
    assert code in told[0]
    assert "whom it is shared with" in told[0]
    for secret in (ACCOUNT, "o-exampleorg1", "ou-exam-12345678"):
        assert secret not in "\n".join(told)
    lab.leaves_nothing(image)


def test_region_that_encrypts_by_default_is_refused(lab: Lab) -> None:
    lab.ec2().enable_ebs_encryption_by_default()
    try:
        with pytest.raises(EC2ServiceException, match="encryption by default is on"):
            lab.upload(lab.image(), **PRIVATE, share=AUDIENCE)
    finally:
        lab.ec2().disable_ebs_encryption_by_default()
    assert lab.live() == []


def test_restarted_job_acts_on_the_recorded_audience(lab: Lab) -> None:
    service = lab.service(**PRIVATE, share={"accounts": [ACCOUNT]})
    planned = service.plan(lab.image())
    assert not planned.public
    assert planned.audience == Audience((ACCOUNT,))


def test_private_image_is_added_to_a_region_for_its_own_audience(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    origin = PRIVATE | {"regions": [ORIGIN]}
    published = lab.upload(image, **origin, share={"accounts": [ACCOUNT]}).published[ORIGIN]
    # By now the site's images are public.
    site = Site(lab.settings(amis=PRIVATE["amis"]), SITE, (), lab.clients)
    addition = RegionAddition(site, Coordination())
    audience = Audience((ACCOUNT,))
    result = addition.add(image, [FURTHER], published, observer, PlainSteps(), audience)
    (ami,) = result.published[FURTHER]
    assert permissions(lab, ami) == ([{"UserId": ACCOUNT}], [{"UserId": ACCOUNT}])
    assert lab.public() == []
