"""One image through EC2Service while EC2 goes wrong by a plan: nothing lost, double, or left.

Follows fedimg/services/ec2.py, fedimg/aws/client/retrying.py, fedimg/aws/instance/attempts.py.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from fedimg.aws import cleanup, survey
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.waiter import Waiter
from fedimg.exceptions import EC2ServiceException, EC2TestException, EC2UtilityException
from fedimg.images import RawImage
from fedimg.services.outcome import Result
from tests.plans import follow, struck
from tests.services.conftest import ORIGIN, PATIENCE, REGIONS, SITE, Lab, Recorder, until

FURTHER = "us-east-2"
SETTINGS: dict[str, Any] = {"regions": [ORIGIN, FURTHER], "amis": {"types": ["hvm-gp2"]}}
#: No passing fault of these tests lasts for a tenth of the outage that is waited for.
LIMITS = {"attempts": 3, "settle": PATIENCE, "outage": PATIENCE, "wait_minimum": 0.05}
#: Where something is given up, that is the test.
BRIEF = {**LIMITS, "settle": 1.5, "outage": 1.5, "copy": 1.5, "image": 1.5, "snapshot": 1.5}


@dataclass(frozen=True)
class Case:
    """Faults, and how a job ends under them.

    `failed` are the regions that are not public then; with the origin and all others among them,
    the job fails. Without faults, its next run makes them public.
    """

    name: str
    faults: list[dict[str, Any]]
    failed: tuple[str, ...] = ()
    words: str = ""
    limits: Mapping[str, float] = field(default_factory=dict)
    write_via: str = "utility"


def refused(code: str, **more: Any) -> dict[str, Any]:
    return {"fault": "refused", "code": code, **more}


ALL = (ORIGIN, FURTHER)
DIRECT: dict[str, Any] = {"write_via": "direct"}

PASSING = [
    Case("throttled", [refused("RequestLimitExceeded", probability=0.1)]),
    Case("fails", [refused("InternalError", probability=0.3)]),
    Case("fails when it has acted", [refused("Unavailable", late=True, count=1)]),
    Case("resets", [{"fault": "reset", "count": 1}]),
    Case("resets when it has acted", [{"fault": "reset", "late": True, "count": 1}]),
    Case("slow", [{"fault": "slow", "seconds": 0.4, "probability": 0.3}]),
    Case("knows nothing new", [{"fault": "unknown", "seconds": 1}]),
    Case("answers stale", [{"fault": "stale", "seconds": 1, "probability": 0.5}]),
    Case(
        "loses answers and shows nothing new",
        [{"fault": "unknown", "seconds": 1}, {"fault": "reset", "late": True, "count": 1}],
    ),
    Case("no capacity", [refused("InsufficientInstanceCapacity", action="RunInstances", count=1)]),
    Case("instance limit", [refused("InstanceLimitExceeded", action="RunInstances", count=1)]),
    Case("credentials expire", [refused("RequestExpired", skip=1, count=2)]),
    Case(
        "a copy fails",
        [{"fault": "failed", "action": "SnapshotCompletion", "region": FURTHER, "count": 1}],
    ),
    Case(
        "snapshots pend",
        [refused("PendingSnapshotLimitExceeded", action="CreateSnapshot", count=2)],
    ),
    Case(
        "snapshots of a volume",
        [refused("ConcurrentSnapshotLimitExceeded", action="CreateSnapshot", count=2)],
    ),
    Case("verification", [refused("PendingVerification", action="RunInstances", count=1)]),
    Case("IOPS", [refused("MaxIOPSLimitExceeded", action="RunInstances", count=1)]),
    Case(
        "full subnet, one attempt",
        [refused("InsufficientFreeAddressesInSubnet", action="RunInstances", count=1)],
        limits={"attempts": 1},
    ),
    Case(
        "zone without the type, one attempt",
        [refused("Unsupported", action="RunInstances", count=1)],
        limits={"attempts": 1},
    ),
    Case(
        "direct, concurrent calls",
        [refused("ConcurrentLimitExceededException", action="StartSnapshot", count=2)],
        **DIRECT,
    ),
    Case("direct, tags", [refused("ConcurrentTagAccess", action="CreateTags", count=2)], **DIRECT),
    *(
        Case(
            f"direct, {reason}",
            [
                refused(
                    "ValidationException", reason=reason, action="PutSnapshotBlock", count=2, skip=1
                )
            ],
            limits={"attempts": 1},
            **DIRECT,
        )
        for reason in ("WRITE_REQUEST_TIMEOUT", "CONFLICTING_BLOCK_UPDATE")
    ),
    Case("direct, throttled", [refused("RequestLimitExceeded", probability=0.1)], **DIRECT),
    Case("direct, resets when acted", [{"fault": "reset", "late": True, "count": 1}], **DIRECT),
    Case("direct, knows nothing new", [{"fault": "unknown", "seconds": 1}], **DIRECT),
    Case("direct, credentials expire", [refused("ExpiredToken", count=2)], **DIRECT),
]

LASTING = [
    Case(
        "region down",
        [{"fault": "reset", "region": FURTHER}],
        failed=(FURTHER,),
        words="could not reach EC2",
        limits=BRIEF,
    ),
    Case(
        "copies never end",
        [{"fault": "unfinished", "action": "SnapshotCompletion", "region": FURTHER}],
        failed=(FURTHER,),
        words="timed out after",
        limits=BRIEF,
    ),
    Case(
        "AMIs fail",
        [{"fault": "failed", "action": "ImageCompletion", "region": FURTHER}],
        failed=(FURTHER,),
        words="is failed",
    ),
    Case(
        "AMIs are never ready",
        [{"fault": "unfinished", "action": "ImageCompletion", "region": FURTHER}],
        failed=(FURTHER,),
        words="timed out after",
        limits=BRIEF,
    ),
    Case(
        "quota used up",
        [refused("ResourceLimitExceeded", action="ModifyImageAttribute", region=FURTHER)],
        failed=(FURTHER,),
        words="higher quota",
    ),
    Case(
        "origin's quota used up",
        [refused("ResourceLimitExceeded", action="ModifyImageAttribute", region=ORIGIN)],
        failed=(ORIGIN,),
        words="higher quota",
    ),
    Case(
        "quota used up everywhere",
        [refused("ResourceLimitExceeded", action="ModifyImageAttribute")],
        failed=ALL,
        words="higher quota",
    ),
    Case(
        "origin down",
        [{"fault": "reset", "region": ORIGIN, "action": "RunInstances"}],
        failed=ALL,
        words="could not reach EC2",
        limits=BRIEF,
    ),
    Case(
        "origin's snapshot fails",
        [{"fault": "failed", "action": "SnapshotCompletion", "region": ORIGIN}],
        failed=ALL,
        words="snapshot snap-.* failed",
    ),
    Case(
        "direct, EBS quota",
        [refused("ServiceQuotaExceededException", action="StartSnapshot")],
        failed=ALL,
        words="ServiceQuotaExceededException",
        **DIRECT,
    ),
    Case(
        "all subnets are full",
        [refused("InsufficientFreeAddressesInSubnet", action="RunInstances")],
        failed=ALL,
        words="no capacity for a .* instance in subnet-.*, subnet-",
        limits={"attempts": 1},
    ),
    Case(
        "no capacity for long",
        [refused("InsufficientInstanceCapacity", action="RunInstances")],
        failed=ALL,
        words="no capacity",
    ),
    Case(
        "credentials gone",
        [refused("AuthFailure", action="CreateSnapshot")],
        failed=ALL,
        words="AuthFailure",
        limits=BRIEF,
    ),
]


def name_of(case: Case) -> str:
    return case.name


def publish(lab: Lab, image: RawImage, case: Case, *, rerun: bool = False) -> Result:
    limits = case.limits if not rerun else {}
    return lab.upload(
        image,
        Recorder(),
        rerun=rerun,
        write_via=case.write_via,
        limits={**LIMITS, **limits},
        **SETTINGS,
    )


def clean(lab: Lab, image: RawImage, result: Result) -> None:
    """Remove what a run left, as the worker does: again while that fails, and what it has
    published it remembers.
    """
    limits = lab.settings(limits=LIMITS).limits
    amis = [ami for made in result.published.values() for ami in made]
    published = {id for ami in amis for id in (ami.id, ami.snapshot)}
    waiter = Waiter(limits, threading.Event())

    def remove() -> bool:
        try:
            found = survey.leftovers(lab.clients, SITE, REGIONS, job=image.job)
            cleanup.remove(
                lab.clients,
                waiter,
                [item for item in found if item.id not in published],
                limit=limits.instance_gone,
            )
        except EC2ServiceException:
            return False
        return True

    until(remove, "cleaned up")


def holds(lab: Lab, image: RawImage, result: Result, regions: set[str]) -> None:
    """Expect a public AMI and its public snapshot in each of these regions, and nothing else at
    all.
    """
    assert set(result.published) == regions
    live = [row for row in lab.live() if row["tags"].get("fedimg:job") == image.job]
    assert all(row["public"] for row in live), live
    there = sorted((row["region"], row["kind"]) for row in live)
    assert there == sorted((r, kind) for r in regions for kind in ("image", "snapshot"))
    made = {ami.id for amis in result.published.values() for ami in amis}
    assert {row["id"] for row in live if row["kind"] == "image"} == made
    assert lab.live("instance") == []


@pytest.mark.parametrize("case", PASSING, ids=name_of)
def test_job_succeeds_despite_passing_faults(lab: Lab, case: Case) -> None:
    image = lab.image()
    follow(lab, case.faults, seed=1)
    result = publish(lab, image, case)
    assert result.failed == {}
    clean(lab, image, result)
    assert sum(struck(lab)) > 0
    # EC2 settles, and the second clean-up sees what the first one could not.
    follow(lab, [])
    clean(lab, image, result)
    holds(lab, image, result, {ORIGIN, FURTHER})


@pytest.mark.parametrize("case", LASTING, ids=name_of)
def test_lasting_fault_is_named_and_the_next_run_completes_the_job(lab: Lab, case: Case) -> None:
    image = lab.image()
    follow(lab, case.faults, seed=1)
    if case.failed == ALL:
        with pytest.raises(EC2ServiceException, match=case.words) as failure:
            publish(lab, image, case)
        assert failure.value.later
        assert failure.value.region == ORIGIN
        result = Result()
    else:
        result = publish(lab, image, case)
        assert tuple(result.failed) == case.failed
        for region, reason in result.failed.items():
            assert region in reason
            assert any(words in reason for words in case.words.split("|"))
    assert sum(struck(lab)) > 0
    follow(lab, [])
    clean(lab, image, result)
    holds(lab, image, result, {ORIGIN, FURTHER} - set(case.failed))

    result = publish(lab, image, case, rerun=True)
    assert result.failed == {}
    clean(lab, image, result)
    holds(lab, image, result, {ORIGIN, FURTHER})


def test_region_that_did_not_answer_the_plan_gets_the_types_that_it_can_have(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    hangs = {"fault": "slow", "seconds": 100_000, "action": "DescribeImages"}
    follow(lab, [{**hangs, "region": list(REGIONS[1:])}])
    observer.when["started"] = lambda: follow(lab, [])
    # A process of its own has asked nobody yet.
    fresh = replace(lab, clients=Clients())
    types = {"types": ["hvm-gp2", "paravirtual-gp2"]}
    result = fresh.upload(image, observer, limits=LIMITS, amis=types)
    assert result.failed == {}
    made = {region: {str(ami.type) for ami in amis} for region, amis in result.published.items()}
    both = {"hvm-gp2", "paravirtual-gp2"}
    assert made == {ORIGIN: both, "us-east-2": {"hvm-gp2"}, "eu-west-1": both}


@pytest.mark.parametrize(
    ("fault", "unknown"),
    [
        (refused("Strange", action="RunInstances"), "Strange"),
        (refused("TagLimitExceeded", action="RunInstances"), ""),
        (refused("Unsupported", action="RunInstances"), ""),
    ],
    ids=["unknown", "a person's", "no zone"],
)
def test_refusal_that_is_not_known_to_pass_fails_at_once(
    lab: Lab, fault: dict[str, Any], unknown: str
) -> None:
    image, observer = lab.image(), Recorder()
    follow(lab, [fault])
    with pytest.raises(EC2UtilityException, match=fault["code"]) as failure:
        lab.upload(image, observer, limits=LIMITS, **SETTINGS)
    assert (failure.value.later, failure.value.unknown) == (False, unknown)
    assert ("does not know this error code" in str(failure.value)) == bool(unknown)
    assert "retrying with a new" not in observer.words()
    follow(lab, [])
    lab.leaves_nothing(image)


def test_direct_write_says_that_ec2_is_away(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    away = refused("ServiceUnavailable", action="PutSnapshotBlock", until=3)
    observer.when["started"] = lambda: follow(lab, [away])
    result = lab.upload(image, observer, write_via="direct", limits=LIMITS, **SETTINGS)
    assert "write waiting for EC2 to answer, since " in observer.words()
    assert "attempt 1 failed" not in observer.words()
    clean(lab, image, result)
    holds(lab, image, result, {ORIGIN, FURTHER})


# Instances, and the server of the file


@pytest.mark.parametrize(
    ("write_via", "manner"),
    [("utility", "unavailable"), ("utility", "stalled"), ("utility", "cut"), ("direct", "reset")],
)
def test_failed_download_is_repeated(lab: Lab, write_via: str, manner: Any) -> None:
    image, observer = lab.image(), Recorder()
    began = "runs at" if write_via == "utility" else "started"
    observer.when[began] = {"stalled": lab.web.stall}.get(
        manner, lambda: setattr(lab.web, "manner", manner)
    )
    observer.when["retrying with a new"] = lambda: setattr(lab.web, "manner", "well")
    limits = {**LIMITS, "write_idle": 3}
    result = lab.upload(image, observer, write_via=write_via, limits=limits, **SETTINGS)
    assert "attempt 1 failed" in observer.words()
    clean(lab, image, result)
    holds(lab, image, result, {ORIGIN, FURTHER})


def test_job_whose_download_always_fails_may_be_retried_later(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    lab.web.manner = "unavailable"
    with pytest.raises(EC2UtilityException, match="503") as failure:
        lab.upload(image, observer, limits=LIMITS, **SETTINGS)
    assert failure.value.later
    assert observer.words().count("retrying with a new") == 2
    lab.leaves_nothing(image)


def utility_instances(lab: Lab, image: RawImage) -> int:
    made = lab.made_for(image, "instance")
    return len([row for row in made if row["tags"]["fedimg:role"] == "utility"])


#: What is said of each way in which an instance spoils a write.
SPOILS = {
    "foreign": "has another host key",
    "dropped": "broke",
    "frozen": "no output for 3 s",
    "full": "volume: .*",
}


@pytest.mark.parametrize("fault", SPOILS)
def test_failed_write_is_repeated_on_a_fresh_instance(lab: Lab, fault: str) -> None:
    image, observer = lab.image(), Recorder()
    follow(lab, [{"fault": fault, "count": 1}])
    result = lab.upload(image, observer, limits={**LIMITS, "write_idle": 3}, **SETTINGS)
    said = f"write attempt 1 failed, retrying with a new instance: .*{SPOILS[fault]}"
    assert re.search(said, observer.words())
    assert struck(lab) == [1]
    assert utility_instances(lab, image) == 2
    assert len(lab.made_for(image, "snapshot")) == 2
    clean(lab, image, result)
    holds(lab, image, result, {ORIGIN, FURTHER})


@pytest.mark.parametrize("fault", SPOILS)
def test_job_whose_every_write_fails_may_be_retried_later(lab: Lab, fault: str) -> None:
    image = lab.image()
    follow(lab, [{"fault": fault}])
    with pytest.raises(EC2UtilityException) as failure:
        lab.upload(image, limits={**LIMITS, "write_idle": 3}, **SETTINGS)
    assert failure.value.later
    assert utility_instances(lab, image) == LIMITS["attempts"]
    follow(lab, [])
    lab.leaves_nothing(image)


@pytest.mark.parametrize("fault", ["foreign", "dropped"])
def test_boot_check_with_a_broken_connection_is_repeated(lab: Lab, fault: str) -> None:
    image, observer = lab.image(), Recorder()
    observer.when["test started"] = lambda: follow(lab, [{"fault": fault, "count": 1}])
    result = lab.upload(image, observer, limits=LIMITS, **SETTINGS)
    assert struck(lab) == [1]
    assert "boot-check:hvm attempt 1 failed, retrying with a new instance: " in observer.words()
    assert observer.of("test failed") == []
    assert len(observer.of("test completed")) == 1
    clean(lab, image, result)
    holds(lab, image, result, {ORIGIN, FURTHER})


def test_broken_connections_of_every_boot_check_do_not_fail_the_image(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    observer.when["test started"] = lambda: follow(lab, [{"fault": "dropped"}])
    words = "the connection broke while a command ran"
    with pytest.raises(EC2TestException, match=words) as failure:
        lab.upload(image, observer, limits=LIMITS, **SETTINGS)
    assert failure.value.later
    assert "login:" in failure.value.output
    assert struck(lab) == [LIMITS["attempts"]]
    (failed,) = observer.of("test failed")
    assert words in failed.output
    follow(lab, [])
    lab.leaves_nothing(image)


def test_image_that_shows_another_host_key_each_time_fails_for_good(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    observer.when["test started"] = lambda: follow(lab, [{"fault": "foreign"}])
    with pytest.raises(EC2TestException, match="has another host key") as failure:
        lab.upload(image, observer, limits=LIMITS, **SETTINGS)
    assert not failure.value.later
    assert struck(lab) == [LIMITS["attempts"]]
    follow(lab, [])
    lab.leaves_nothing(image)


@pytest.mark.parametrize("wrong", ["gone", "other bytes"])
def test_wrong_file_fails_at_once_and_for_good(lab: Lab, wrong: str) -> None:
    image, observer = lab.image(checksum="sha256:" + "0" * 64), Recorder()
    if wrong == "gone":
        lab.web.files.clear()
    with pytest.raises(EC2UtilityException, match="404|expected sha256:0") as failure:
        lab.upload(image, observer, limits=LIMITS, **SETTINGS)
    assert not failure.value.later
    assert "retrying with a new" not in observer.words()
    lab.leaves_nothing(image)
