"""A rehearsal does all but publish, and leaves nothing: fedimg.services.rehearsal."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from fedimg.config import Check
from fedimg.exceptions import Cancelled, EC2ServiceException, EC2TestException
from fedimg.services.rehearsal import Rehearsal, rehearse
from fedimg.services.site import Site
from tests.services.conftest import ORIGIN, REGIONS, SITE, Lab

CHECK = Check(name="runs a command", command="/bin/true")


def rehearsed(
    lab: Lab,
    *,
    region: str = ORIGIN,
    checks: Sequence[Check] = (CHECK,),
    told: list[str] | None = None,
    stop: threading.Event | None = None,
    **settings: Any,
) -> Rehearsal:
    site = Site(lab.settings(**settings), SITE, checks, lab.clients)
    told = told if told is not None else []
    return rehearse(site, lab.image(), region, tell=told.append, stop=stop)


def ever_public(lab: Lab) -> list[dict[str, Any]]:
    """Return the calls by which anything could have become public."""
    calls = lab.ask("calls")
    return [call for call in calls if call.startswith(("ModifyImage", "ModifySnapshot"))]


@pytest.mark.parametrize("write_via", ["utility", "direct"])
def test_everything_is_done_but_nothing_is_public_and_nothing_is_left(
    lab: Lab, write_via: str
) -> None:
    told: list[str] = []
    lab.forget_calls()
    done = rehearsed(lab, told=told, write_via=write_via)
    assert {ami.region for ami in done.amis} == {ORIGIN}
    assert {str(each.ami.type.virtualization) for each in done.booted} == {"hvm", "paravirtual"}
    assert [check.name for each in done.booted for check in each.checks].count(CHECK.name) == 2
    steps = [step for step, _ in done.steps]
    assert (steps[0], steps[-1]) == ("write", "clean-up")
    assert not {"publish", "rehearsed"} & set(steps)
    took = dict(done.steps)
    # The checks are timed one by one, though they run beside what waits for them.
    boots = [seconds for step, seconds in done.steps if step.startswith("boot check of ")]
    assert len(boots) == 2
    assert 0 < max(boots) <= took["waiting for the boot check"] + took["register"] + 0.5
    assert done.disk is not None
    assert ever_public(lab) == []
    assert lab.live() == []
    # The ledger has what was made: it is no rehearsal that makes nothing.
    assert done.removed >= len(done.amis) + 1
    assert any(line.startswith(f"check {CHECK.name}: passed") for line in told)


def test_rehearsal_is_never_taken_for_the_job_of_the_same_image(lab: Lab) -> None:
    image = lab.image()
    site = Site(lab.settings(), SITE, (CHECK,), lab.clients)
    lab.account.quota(100)
    lab.upload(image)
    before = sorted(lab.public())
    done = rehearse(site, image, ORIGIN)
    assert done.job != image.job
    # Names of AMIs are unique: the rehearsal's have the next number.
    assert all(ami.name.endswith("-1") for ami in done.amis)
    assert sorted(lab.public()) == before


def test_failed_check_is_the_error_and_nothing_is_left(lab: Lab) -> None:
    with pytest.raises(EC2TestException, match="says no"):
        rehearsed(lab, checks=[Check(name="says no", command="/bin/false")])
    assert lab.live() == []


def test_interrupted_rehearsal_leaves_nothing(lab: Lab) -> None:
    stop = threading.Event()

    class Stopper(list[str]):
        def append(self, line: str) -> None:
            if line.startswith("booting"):
                stop.set()

    with pytest.raises(Cancelled):
        rehearsed(lab, told=Stopper(), stop=stop)
    assert lab.live() == []


def test_another_region_is_the_origin_of_its_rehearsal(lab: Lab) -> None:
    further = next(region for region in REGIONS if region != ORIGIN)
    # Written directly, as the utility AMI is in the origin alone.
    done = rehearsed(lab, region=further, write_via="direct")
    assert {ami.region for ami in done.amis} == {further}
    assert done.plan.origin == further
    assert lab.live() == []


def test_what_cannot_be_removed_is_told_with_the_command_that_removes_it(lab: Lab) -> None:
    def refuse(line: str) -> None:
        if line == "clean-up":
            lab.refuse({ORIGIN: {"DeregisterImage": "UnauthorizedOperation"}})

    class Refuser(list[str]):
        append = staticmethod(refuse)  # type: ignore[assignment]

    with pytest.raises(EC2ServiceException, match="'fedimg cleanup' lists and removes them"):
        rehearsed(lab, told=Refuser())
    lab.refuse({})
    assert lab.public() == []
