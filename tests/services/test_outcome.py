"""The ends of all regions' steps together tell where an image is public, and what failed."""

import pytest

from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI, AMIType, Virtualization
from fedimg.services.outcome import Outcome, one_of, result_of

ORIGIN, FURTHER, THIRD = "us-east-1", "eu-west-1", "us-west-2"


def ami(region: str) -> AMI:
    return AMI(f"ami-{region}", "name", region, AMIType(Virtualization.HVM, "gp3"), "snap-1")


def test_regions_that_failed_are_told_apart_by_what_may_help() -> None:
    ended = [
        Outcome(ORIGIN, [ami(ORIGIN)], encrypted=[ami(ORIGIN)]),
        Outcome(FURTHER, [], EC2ServiceException("no answer", later=True)),
        Outcome(THIRD, [ami(THIRD)], EC2ServiceException("strange", unknown="Strange")),
        Outcome("sa-east-1", [], EC2ServiceException("refused")),
    ]
    result = result_of(ended, ORIGIN)
    assert set(result.published) == {ORIGIN, THIRD}
    assert result.failed == {FURTHER: "no answer", THIRD: "strange", "sa-east-1": "refused"}
    assert (result.later, result.unknown) == ([FURTHER], [THIRD])
    assert set(result.encrypted) == {ORIGIN}


def test_image_that_is_public_nowhere_fails_with_what_may_pass() -> None:
    final, full = EC2ServiceException("refused"), EC2ServiceException("no room", no_room=2)
    with pytest.raises(EC2ServiceException, match="no room"):
        result_of([Outcome(FURTHER, [], full), Outcome(ORIGIN, [], final)], ORIGIN)
    # Of failures with the same hope, the origin's tells most.
    other = EC2ServiceException("refused elsewhere")
    with pytest.raises(EC2ServiceException, match="refused$"):
        result_of([Outcome(FURTHER, [], other), Outcome(ORIGIN, [], final)], ORIGIN)


def test_two_failures_of_a_region_are_one_that_may_pass_with_both_texts() -> None:
    plain, encrypted = EC2ServiceException("refused"), EC2ServiceException("no key", later=True)
    told = one_of([plain, encrypted])
    assert told is not None
    assert (told.later, told.problem) == (
        True,
        "refused; and of its encrypted AMIs: no key",
    )
    assert encrypted.problem == "no key"
    assert one_of([plain]) is plain
    assert one_of([]) is None
