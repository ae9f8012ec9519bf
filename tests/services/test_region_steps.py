"""Regions that fail beside others that do not, as EC2Service deals with them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from fedimg.config import Check
from fedimg.exceptions import (
    EC2ServiceException,
    EC2TestException,
)
from tests.services.conftest import (
    ORIGIN,
    PUBLIC_AMIS,
    REGIONS,
    SMALL,
    WITH_COPY,
    Lab,
    Recorder,
    until,
)


def test_region_that_refuses_its_copy_is_completed_by_a_later_try(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    lab.refuse({"eu-west-1": {"CopySnapshot": "UnauthorizedOperation"}})
    first = lab.upload(image, observer)
    assert set(first.published) == {ORIGIN, "us-east-2"}
    (reason,) = (first.failed["eu-west-1"],)
    assert "UnauthorizedOperation" in reason
    assert "IAM policy" in reason
    assert "eu-west-1, copy" in reason
    lab.clean(image)
    assert {row["region"] for row in lab.live()} == {ORIGIN, "us-east-2"}

    lab.refuse({})
    started = len(lab.made_for(image, "instance"))
    second = lab.upload(image, Recorder(), rerun=True)
    assert second.failed == {}
    assert set(second.published) == set(REGIONS)
    for region in (ORIGIN, "us-east-2"):
        assert set(second.published[region]) == set(first.published[region])
    # What is public was tested: neither a utility nor a test instance starts.
    assert len(lab.made_for(image, "instance")) == started
    lab.clean(image)
    assert len(lab.live("image")) == 10
    assert len(lab.live("snapshot")) == 3


def test_copy_that_ec2_gives_up_is_made_again(lab: Lab) -> None:
    image = lab.image()
    lab.refuse({"us-east-2": {"SnapshotCompletion": "the lab lost a block"}})

    def mend() -> None:
        until(lambda: lab.made_for(image, "snapshot", "delete"), "the failed copy removed")
        lab.refuse({})

    mending = threading.Thread(target=mend)
    mending.start()
    result = lab.upload(image, **{**WITH_COPY, "limits": {"attempts": 5, "regions": 1}})
    mending.join()
    assert set(result.published) == {ORIGIN, "us-east-2"}
    (gone, *_) = lab.made_for(image, "snapshot", "delete")
    assert gone["region"] == "us-east-2"
    lab.clean(image)
    assert len(lab.live("snapshot")) == 2


def test_regions_that_fail_to_make_amis_delay_no_other(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    lab.refuse(
        {
            "us-east-2": {"RegisterImage": "UnauthorizedOperation"},
            "eu-west-1": {"ImageCompletion": "the lab lost an image"},
        }
    )
    result = lab.upload(image, observer)
    assert set(result.published) == {ORIGIN}
    assert "UnauthorizedOperation" in result.failed["us-east-2"]
    assert "us-east-2, register" in result.failed["us-east-2"]
    assert "the lab lost an image" in result.failed["eu-west-1"]
    assert f"us-east-2 failed for good  {result.failed['us-east-2']}" in observer.words()
    assert f"eu-west-1 failed  {result.failed['eu-west-1']}" in observer.words()
    lab.clean(image)
    assert {row["region"] for row in lab.live()} == {ORIGIN}


def test_blocked_public_access_fails_its_region_alone(lab: Lab) -> None:
    image = lab.image()
    images, snapshots = lab.ec2("eu-west-1"), lab.ec2("us-east-2")
    images.enable_image_block_public_access(ImageBlockPublicAccessState="block-new-sharing")
    snapshots.enable_snapshot_block_public_access(State="block-new-sharing")
    try:
        result = lab.upload(image)
    finally:
        images.disable_image_block_public_access()
        snapshots.disable_snapshot_block_public_access()
    assert set(result.published) == {ORIGIN}
    for region in ("eu-west-1", "us-east-2"):
        assert "block public access" in result.failed[region]
        assert (
            f"block-public-access --region {region}', then 'fedimg retry'" in result.failed[region]
        )
        assert f"{region}, copy" in result.failed[region]
    lab.clean(image)
    assert {row["region"] for row in lab.live()} == {ORIGIN}


def test_full_quota_of_public_amis_is_reported_and_a_later_run_publishes_the_rest(lab: Lab) -> None:
    before, image = lab.image(), lab.image()
    three: dict[str, Any] = {**WITH_COPY, "amis": {"types": ["hvm-standard", "hvm-gp2", "hvm-gp3"]}}
    two: dict[str, Any] = {**WITH_COPY, "amis": {"types": ["hvm-standard", "hvm-gp2"]}}
    assert PUBLIC_AMIS == 3 + 1
    older = lab.upload(before, **three)
    for ami in older.published[ORIGIN]:
        lab.ec2().deregister_image(ImageId=ami.id)

    result = lab.upload(image, **two)
    assert len(result.published[ORIGIN]) == 2
    assert "has no room for 2 more public AMIs" in result.failed["us-east-2"]
    assert "higher quota" in result.failed["us-east-2"]

    for ami in older.published["us-east-2"]:
        lab.ec2("us-east-2").deregister_image(ImageId=ami.id)
    lab.clean(image)
    result = lab.upload(image, rerun=True, **two)
    assert {region: len(made) for region, made in result.published.items()} == {
        ORIGIN: 2,
        "us-east-2": 2,
    }
    lab.clean(before)
    lab.clean(image)
    assert len(lab.live("image")) == 4
    # Those of the AMIs that were deregistered by hand, too: they are public, and anybody's.
    assert len(lab.live("snapshot")) == 4


def test_origin_that_refuses_publication_fails_the_job(lab: Lab) -> None:
    image = lab.image()
    lab.refuse({ORIGIN: {"ModifyImageAttribute": "UnauthorizedOperation"}})
    with pytest.raises(EC2ServiceException, match="UnauthorizedOperation") as failure:
        lab.upload(image, **SMALL)
    assert (failure.value.region, failure.value.step) == (ORIGIN, "publish")
    assert failure.value.request_id
    lab.clean(image)
    # Its snapshot was public by then; no AMI is made from it, so it goes.
    assert lab.live() == []


# Clean-up


def test_clean_up_goes_on_after_a_resource_that_cannot_be_removed(lab: Lab) -> None:
    image = lab.image()
    fails = Check(name="fails", command="false")
    with pytest.raises(EC2TestException):
        lab.upload(image, checks=[fails], **{**SMALL, "amis": {"types": ["hvm-gp2", "hvm-gp3"]}})
    lab.refuse({ORIGIN: {"DeregisterImage": "UnauthorizedOperation"}})
    with pytest.raises(EC2ServiceException, match=r"removing image ami-.*UnauthorizedOperation"):
        lab.clean(image)
    # The snapshot is in use, and not waited for.
    assert sorted(row["kind"] for row in lab.live()) == ["image", "image", "snapshot"]
    lab.refuse({})
    lab.leaves_nothing(image)
