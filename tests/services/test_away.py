"""A further region that is gone, hangs or takes no call: the others never wait for it.

Follows fedimg/services/ec2.py, fedimg/aws/client/availability.py,
fedimg/services/running_branches.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fedimg.aws.client import availability
from fedimg.aws.client import clients as clients_module
from fedimg.aws.client.clients import Clients
from fedimg.config import Limits
from fedimg.exceptions import EC2ServiceException
from fedimg.images import RawImage
from fedimg.jobs.outages import Outages
from fedimg.services.ec2 import EC2Service
from fedimg.services.outcome import Result
from fedimg.services.site import Coordination, Site
from fedimg.store.store import Store
from lab.own_address import OwnAddress
from tests.plans import follow, struck
from tests.services.conftest import ORIGIN, SITE, Lab, Recorder

GONE, WELL = "us-east-2", "eu-west-1"
SETTINGS: dict[str, Any] = {
    "amis": {"types": ["hvm-gp2"]},
    # Whoever waits for the region waits for longer than a test may take.
    "limits": {"outage": 36_000, "settle": 60, "attempts": 3},
}
HANGS = {"fault": "slow", "seconds": 100_000, "region": GONE}
#: For so many seconds expired credentials are the region's affair, and not those of the worker.
KEYS_SECONDS = 3.0


@pytest.fixture(scope="module", autouse=True)
def short_limits() -> Iterator[None]:
    """Give up a region that hangs in a fifth of the time, which says nothing of what follows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clients_module, "_ONCE_SECONDS", 4)
        patch.setattr(clients_module, "_BRIEF_SECONDS", 2)
        patch.setattr(availability, "_KEYS_SECONDS", KEYS_SECONDS)
        yield


@pytest.fixture
def outages(tmp_path: Path) -> Iterator[Outages]:
    store = Store(tmp_path)
    yield Outages(store, Limits())
    store.close()


def publish(
    lab: Lab,
    outages: Outages,
    image: RawImage,
    observer: Recorder | None = None,
    *,
    rerun: bool = False,
    clients: Clients | None = None,
    **settings: Any,
) -> Result:
    """Publish an image, knowing what is known of regions."""
    service = EC2Service(
        Site(lab.settings(**{**SETTINGS, **settings}), SITE, (), clients or lab.clients),
        Coordination(outages=outages),
    )
    return service.upload(image, observer or Recorder(), rerun=rerun)


def holds(lab: Lab, image: RawImage, regions: set[str]) -> None:
    """One public AMI and its snapshot in each of these regions, and nothing else."""
    lab.clean(image)
    live = [row for row in lab.live() if row["tags"].get("fedimg:job") == image.job]
    there = sorted((row["region"], row["kind"]) for row in live)
    assert there == sorted((r, kind) for r in regions for kind in ("image", "snapshot"))


def test_region_that_hangs_holds_up_no_job_and_gets_its_amis_when_it_is_back(
    lab: Lab, outages: Outages
) -> None:
    image = lab.image()
    follow(lab, [HANGS])
    result = publish(lab, outages, image)
    assert set(result.published) == {ORIGIN, WELL}
    assert result.later == [GONE]
    assert "the job continues there when the region answers again" in result.failed[GONE]
    assert outages.away(GONE)
    follow(lab, [])
    (outage,) = outages.all()
    outages.end(outage)
    result = publish(lab, outages, image, rerun=True)
    assert (result.failed, result.later) == ({}, [])
    holds(lab, image, {ORIGIN, WELL, GONE})


def test_region_that_is_known_to_be_away_is_asked_by_no_further_job(
    lab: Lab, outages: Outages
) -> None:
    follow(lab, [HANGS])
    outages.begin(GONE, "no answer")
    for types in (["hvm-gp2"], ["hvm-gp2", "paravirtual-gp2"]):
        result = publish(lab, outages, lab.image(), clients=Clients(), amis={"types": types})
        assert result.later == [GONE]
    assert struck(lab) == [0]


def test_region_that_hangs_is_known_by_the_plan_already(lab: Lab, outages: Outages) -> None:
    follow(lab, [{**HANGS, "action": "DescribeImages"}])
    types = {"types": ["hvm-gp2", "paravirtual-gp2"]}
    publish(lab, outages, lab.image(), clients=Clients(), amis=types)
    (outage,) = outages.all()
    assert outage.region == GONE


@pytest.mark.parametrize("code", ["AuthFailure", "OptInRequired", "UnauthorizedOperation"])
def test_region_that_refuses_every_call_is_away_and_the_keys_are_not_at_fault(
    lab: Lab, outages: Outages, code: str
) -> None:
    follow(lab, [{"fault": "refused", "code": code, "region": GONE}])
    clients = Clients()
    session = clients._session
    result = publish(lab, outages, lab.image(), clients=clients)
    assert result.later == [GONE]
    assert set(result.published) == {ORIGIN, WELL}
    (outage,) = outages.all()
    assert code in outage.reason
    # Neither read anew nor made anew.
    assert clients._session is session


def test_refusal_of_one_call_is_no_outage_of_the_region(lab: Lab, outages: Outages) -> None:
    refused = {"fault": "refused", "code": "UnauthorizedOperation", "region": GONE}
    follow(lab, [{**refused, "action": "CopySnapshot"}])
    result = publish(lab, outages, lab.image())
    assert list(result.failed) == [GONE]
    assert (result.later, outages.all()) == ([], [])


def test_credentials_that_the_origin_refuses_too_are_at_fault(lab: Lab, outages: Outages) -> None:
    image, observer = lab.image(), Recorder()
    expired = {"fault": "refused", "code": "RequestExpired", "until": 2 * KEYS_SECONDS}
    observer.when[f"progress {GONE} register"] = lambda: follow(lab, [expired])
    result = publish(lab, outages, image, observer)
    assert (result.failed, outages.all()) == ({}, [])


def test_region_that_refused_keys_just_before_they_were_renewed_is_not_away(
    lab: Lab, outages: Outages
) -> None:
    answer: Any = {"Error": {"Code": "RequestExpired", "Message": "expired"}}
    watch = availability.Watch(lab.clients, availability.Origin(lab.clients, ORIGIN), GONE, outages)
    watch.failed(ClientError(answer, "RegisterImage"), KEYS_SECONDS + 1, 3600.0)
    assert outages.all() == []


def test_region_that_is_back_while_another_runs_is_continued(lab: Lab, outages: Outages) -> None:
    image, observer = lab.image(), Recorder()
    outages.begin(GONE, "no answer")
    (outage,) = outages.all()
    observer.when[f"progress {GONE} copy waiting"] = lambda: outages.end(outage)
    result = publish(lab, outages, image, observer)
    assert result.failed == {}
    holds(lab, image, {ORIGIN, WELL, GONE})


@pytest.mark.parametrize(
    "action", ["RegisterImage", "ModifySnapshotAttribute", "DescribeSnapshots"]
)
def test_region_that_begins_to_hang_in_the_middle_is_left_for_later(
    lab: Lab, outages: Outages, action: str
) -> None:
    image, observer = lab.image(), Recorder()
    follow(lab, [{**HANGS, "action": action}])
    result = publish(lab, outages, image, observer)
    assert result.later == [GONE]
    assert set(result.published) == {ORIGIN, WELL}
    follow(lab, [])
    outages.end(outages.all()[0])
    assert publish(lab, outages, image, rerun=True).failed == {}
    holds(lab, image, {ORIGIN, WELL, GONE})


def test_branches_that_could_not_all_begin_wait_for_no_region(lab: Lab, outages: Outages) -> None:
    outages.begin(GONE, "no answer")
    limits = {**SETTINGS["limits"], "regions": 2}
    result = publish(lab, outages, lab.image(), limits=limits)
    assert result.later == [GONE]
    assert set(result.published) == {ORIGIN, WELL}


def test_simultaneous_jobs_learn_of_an_outage_from_each_other(lab: Lab, outages: Outages) -> None:
    follow(lab, [HANGS])
    first = publish(lab, outages, lab.image())
    asked = struck(lab)
    second = publish(replace(lab, clients=Clients()), outages, lab.image())
    assert first.later == second.later == [GONE]
    assert struck(lab) == asked


def test_nothing_is_made_in_a_region_that_does_not_answer(lab: Lab, outages: Outages) -> None:
    """A call that makes something may have taken effect when its answer is given up."""
    follow(lab, [{**HANGS, "action": "CopySnapshot"}, HANGS])
    publish(lab, outages, lab.image(), clients=Clients())
    copies, others = struck(lab)
    assert copies == 0
    assert others > 0


@pytest.mark.parametrize(
    "fault",
    [
        None,
        {"fault": "refused", "code": "ServiceUnavailable", "region": GONE},
        {"fault": "slow", "seconds": 30, "region": GONE},
    ],
    ids=["refuses connections", "answers 503", "answers after 30 s"],
)
def test_region_in_trouble_costs_itself_alone_and_is_completed_when_it_is_back(
    lab: Lab,
    outages: Outages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: dict[str, Any] | None,
) -> None:
    image, limits = lab.image(), {**SETTINGS["limits"], "outage": 5}
    with closing(OwnAddress(tmp_path, GONE, lab.url)) as own:
        monkeypatch.setenv("AWS_DATA_PATH", own.environment["AWS_DATA_PATH"])
        if fault:
            own.open()
            follow(lab, [fault])
        result = publish(lab, outages, image, clients=Clients(), limits=limits)
        assert set(result.published) == {ORIGIN, WELL}
        assert result.later == [GONE]
        (outage,) = outages.all()
        assert outage.region == GONE
        follow(lab, [])
        own.open()
        outages.end(outage)
        assert publish(lab, outages, image, rerun=True, clients=Clients()).failed == {}
    holds(lab, image, {ORIGIN, WELL, GONE})


def test_region_that_is_disabled_in_mid_job_is_away_and_costs_itself_alone(
    lab: Lab, outages: Outages
) -> None:
    image, observer = lab.image(), Recorder()
    observer.when[f"progress {GONE} register"] = lambda: lab.account.disable(GONE)
    try:
        result = publish(lab, outages, image, observer)
    finally:
        lab.account.enable(GONE)
    assert set(result.published) == {ORIGIN, WELL}
    assert result.later == [GONE]
    (outage,) = outages.all()
    assert "AuthFailure" in outage.reason
    outages.end(outage)
    assert publish(lab, outages, image, rerun=True).failed == {}
    holds(lab, image, {ORIGIN, WELL, GONE})


@pytest.fixture
def blocked(lab: Lab) -> Iterator[None]:
    """Block public access in the regions that answer."""
    for region in (ORIGIN, WELL):
        lab.ec2(region).enable_image_block_public_access(
            ImageBlockPublicAccessState="block-new-sharing"
        )
    yield
    for region in (ORIGIN, WELL):
        lab.ec2(region).disable_image_block_public_access()


@pytest.mark.usefixtures("blocked")
def test_job_that_only_a_region_that_is_away_can_take_waits_for_it(
    lab: Lab, outages: Outages
) -> None:
    outages.begin(GONE, "no answer")
    with pytest.raises(EC2ServiceException) as failure:
        publish(lab, outages, lab.image())
    assert (failure.value.region, failure.value.away) == (GONE, True)
