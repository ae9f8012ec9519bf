"""A failure that only a person can mend is told apart from one that may pass, region by region.

Follows fedimg/exceptions.py, fedimg/services/ec2.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fedimg.exceptions import EC2ServiceException
from fedimg.progress import FAILED, FAILED_FOR_GOOD, NO_ROOM
from tests.services.conftest import ORIGIN, Lab, Recorder

FURTHER, OTHER = "eu-west-1", "us-east-2"
SMALL: dict[str, Any] = {"amis": {"types": ["hvm-gp2"]}}


def last(observer: Recorder, region: str) -> str:
    """Return the last progress of a region."""
    return [told.detail for told in observer.of("progress") if told.region == region][-1]


@contextmanager
def blocking(lab: Lab, region: str) -> Iterator[None]:
    """Block public access in a region."""
    ec2 = lab.ec2(region)
    ec2.enable_image_block_public_access(ImageBlockPublicAccessState="block-new-sharing")
    try:
        yield
    finally:
        ec2.disable_image_block_public_access()


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("CopySnapshot", "UnauthorizedOperation"),
        ("CopySnapshot", "TagLimitExceeded"),
        ("RegisterImage", "InvalidParameterValue"),
        ("RegisterImage", "UnsupportedOperation"),
    ],
)
def test_refusal_that_a_person_has_to_mend_is_final_for_its_region(
    lab: Lab, call: str, code: str
) -> None:
    observer = Recorder()
    lab.refuse({FURTHER: {call: code}})
    result = lab.upload(lab.image(), observer, **SMALL)
    assert set(result.published) == {ORIGIN, OTHER}
    assert code in result.failed[FURTHER]
    assert (result.later, result.unknown) == ([], [])
    assert last(observer, FURTHER).startswith(FAILED_FOR_GOOD)


def test_block_of_public_access_is_final_for_its_region(lab: Lab) -> None:
    observer = Recorder()
    with blocking(lab, FURTHER):
        result = lab.upload(lab.image(), observer, **SMALL)
    assert set(result.failed) == {FURTHER}
    assert (result.later, result.unknown) == ([], [])
    assert last(observer, FURTHER).startswith(FAILED_FOR_GOOD)


def test_regions_that_may_succeed_later_are_named_beside_those_that_may_not(lab: Lab) -> None:
    observer = Recorder()
    lab.refuse(
        {
            FURTHER: {"CopySnapshot": "TagLimitExceeded"},
            OTHER: {"CopySnapshot": "SnapshotLimitExceeded"},
        }
    )
    result = lab.upload(lab.image(), observer, **SMALL)
    assert set(result.failed) == {FURTHER, OTHER}
    assert (result.later, result.unknown) == ([OTHER], [])
    assert last(observer, OTHER).startswith(f"{FAILED} ")
    assert last(observer, FURTHER).startswith(FAILED_FOR_GOOD)


def test_code_that_nobody_knows_is_told_apart(lab: Lab) -> None:
    observer = Recorder()
    lab.refuse({FURTHER: {"CopySnapshot": "StrangeRefusal"}})
    result = lab.upload(lab.image(), observer, **SMALL)
    assert (result.later, result.unknown) == ([], [FURTHER])
    assert last(observer, FURTHER).startswith(f"{FAILED} ")


def test_final_failure_of_the_origin_does_not_end_the_wait_for_another_regions_room(
    lab: Lab,
) -> None:
    observer = Recorder()
    lab.account.quota(0, FURTHER)
    lab.refuse({ORIGIN: {"ModifyImageAttribute": "UnauthorizedOperation"}})
    with pytest.raises(EC2ServiceException) as failure:
        lab.upload(lab.image(), observer, **SMALL, regions=[ORIGIN, FURTHER])
    assert (failure.value.region, failure.value.no_room, failure.value.later) == (FURTHER, 1, True)
    assert last(observer, FURTHER).startswith(NO_ROOM)
    assert last(observer, ORIGIN).startswith(FAILED_FOR_GOOD)


def test_final_failure_of_the_origin_does_not_end_the_retries_for_another_region(lab: Lab) -> None:
    lab.refuse(
        {
            ORIGIN: {"ModifyImageAttribute": "UnauthorizedOperation"},
            FURTHER: {"CopySnapshot": "SnapshotLimitExceeded"},
        }
    )
    with pytest.raises(EC2ServiceException) as failure:
        lab.upload(lab.image(), **SMALL, regions=[ORIGIN, FURTHER])
    assert (failure.value.region, failure.value.later) == (FURTHER, True)


def test_origins_failure_is_told_where_nothing_may_pass(lab: Lab) -> None:
    lab.refuse(
        {
            ORIGIN: {"ModifyImageAttribute": "UnauthorizedOperation"},
            FURTHER: {"CopySnapshot": "TagLimitExceeded"},
        }
    )
    with pytest.raises(EC2ServiceException) as failure:
        lab.upload(lab.image(), **SMALL, regions=[ORIGIN, FURTHER])
    assert (failure.value.region, failure.value.may_pass) == (ORIGIN, False)
