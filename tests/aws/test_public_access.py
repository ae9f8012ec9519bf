"""Room for public AMIs, as the jobs of one process share and count it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedimg.aws import public_access
from fedimg.aws.public_access import Answers, PublicAccess
from fedimg.exceptions import EC2ServiceException

REGION = "eu-west-1"


class Region:
    """A region that counts how often it is asked."""

    def __init__(self, quota: float | None = 5, **states: str | bool) -> None:
        self.quota = quota
        self.states = states
        self.public: dict[str, str] = {}
        self.asked = 0

    def __call__(self) -> Answers:
        self.asked += 1
        states: dict[str, object] = {
            "image_block": "unblocked",
            "snapshot_block": "unblocked",
            "encrypted": False,
            **self.states,
        }
        return Answers(quota=self.quota, public=dict(self.public), **states)  # type: ignore[arg-type]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that lets seconds pass."""
    now = [1000.0]
    monkeypatch.setattr(public_access.time, "monotonic", lambda: now[0])

    def pass_(seconds: float) -> None:
        now[0] += seconds

    return pass_


def refused(access: PublicAccess, region: Region, job: str, amis: int) -> EC2ServiceException:
    with pytest.raises(EC2ServiceException) as caught:
        access.reserve(REGION, job, amis, region)
    return caught.value


def test_room_is_reserved_for_each_job_and_given_back() -> None:
    access, region = PublicAccess(), Region(5)
    access.reserve(REGION, "a", 3, region)
    access.reserve(REGION, "a", 3, region)
    error = refused(access, region, "b", 3)
    assert (error.no_room, error.later) == (3, True)
    access.release("a")
    access.reserve(REGION, "b", 3, region)
    assert region.asked == 1


def test_what_a_job_has_published_needs_no_room_again() -> None:
    access, region = PublicAccess(), Region(2)
    region.public = {"ami-1": "a", "ami-2": "a"}
    access.reserve(REGION, "a", 2, region)
    assert refused(access, region, "b", 1).no_room == 1


def test_published_amis_count_once_beside_their_reservation() -> None:
    access, region = PublicAccess(), Region(4)
    access.reserve(REGION, "a", 2, region)
    access.published(REGION, "a", ["ami-1", "ami-2"])
    access.reserve(REGION, "b", 2, region)
    assert refused(access, region, "c", 1).no_room == 1


def test_answers_stay_valid_for_minutes_and_obstacles_for_one(
    later: Callable[[float], None],
) -> None:
    access, region = PublicAccess(), Region(5)
    access.reserve(REGION, "a", 1, region)
    later(599)
    access.reserve(REGION, "a", 1, region)
    assert region.asked == 1
    later(1)
    region.quota = 0
    assert refused(access, region, "a", 1).no_room
    assert region.asked == 2
    region.quota = 5
    later(59)
    assert refused(access, region, "a", 1).no_room
    later(1)
    access.reserve(REGION, "a", 1, region)
    assert region.asked == 3


def test_unknown_quota_is_no_obstacle() -> None:
    PublicAccess().reserve(REGION, "a", 9, Region(None))


@pytest.mark.parametrize("unknown", ["quota", "image_block", "snapshot_block", "encrypted"])
def test_unknown_answer_is_asked_for_again_after_a_minute(
    later: Callable[[float], None], unknown: str
) -> None:
    access, region = PublicAccess(), Region(**{"quota": 5, unknown: None})  # type: ignore[arg-type]
    access.reserve(REGION, "a", 1, region)
    later(59)
    access.reserve(REGION, "a", 1, region)
    assert region.asked == 1
    later(1)
    region.quota = 0
    assert refused(access, region, "a", 1).no_room
    assert region.asked == 2


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({"image_block": "block-new-sharing"}, "disable-image-block-public-access"),
        ({"snapshot_block": "block-all-sharing"}, "disable-snapshot-block-public-access"),
        ({"encrypted": True}, "disable-ebs-encryption-by-default"),
    ],
)
def test_what_a_person_must_change_is_told_with_the_command(
    states: dict[str, str | bool], said: str
) -> None:
    error = refused(PublicAccess(), Region(5, **states), "a", 1)
    assert f"{said} --region {REGION}" in error.problem
    assert (error.later, error.no_room) == (False, 0)


def test_refused_by_ec2_the_region_is_asked_anew() -> None:
    access, region = PublicAccess(), Region(5)
    access.reserve(REGION, "a", 1, region)
    assert access.refused(REGION, "a", 1, region) is None
    region.public = {f"ami-{n}": "" for n in range(5)}
    known = access.refused(REGION, "a", 1, region)
    assert known is not None
    assert known.no_room == 1
    assert region.asked == 3
