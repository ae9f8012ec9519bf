"""A plan of faults: calls go wrong as it says, no others do, and the same seed strikes the same."""

import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError

from lab.ec2.faults import ON_CALLS, ON_COMPLETIONS, ON_MACHINES, Faults, Plan, PlanError
from tests.lab.conftest import SESSION, Site
from tests.plans import follow, struck

EXAMPLE = Path(__file__).parents[2] / "docs" / "faults.toml.example"
PATIENCE = 240.0


def code_of(call: Callable[[], object]) -> str:
    """EC2's code for the refusal of a call; empty when it was not refused."""
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def once(ec2: Site) -> Any:
    """Return a client that tries no call again."""
    config = Config(retries={"total_max_attempts": 1})
    return SESSION.client("ec2", "us-east-1", endpoint_url=ec2.ec2.url, config=config)


def volume(client: Any, **params: Any) -> str:
    made = client.create_volume(AvailabilityZone=f"{client.meta.region_name}a", Size=1, **params)
    until(lambda: state(client, made["VolumeId"]) == "available")
    return str(made["VolumeId"])


def state(client: Any, id: str) -> str:
    """Return the state of a volume or a snapshot; empty when it is not shown."""
    describe, key, ids = (
        (client.describe_volumes, "Volumes", "volume-id")
        if id.startswith("vol")
        else (client.describe_snapshots, "Snapshots", "snapshot-id")
    )
    found = describe(Filters=[{"Name": ids, "Values": [id]}])[key]
    return str(found[0]["State"]) if found else ""


def until(so: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


# Which calls


def test_region_refuses_an_action_until_the_plan_changes(ec2: Site) -> None:
    client = ec2.client(region="eu-west-1")
    follow(
        ec2.ec2,
        [
            {"fault": "refused", "code": "UnauthorizedOperation", "action": "DescribeImages"}
            | {"region": "eu-west-1"}
        ],
    )
    assert code_of(client.describe_images) == "UnauthorizedOperation"
    assert code_of(client.describe_volumes) == ""
    assert code_of(ec2.client().describe_images) == ""
    assert struck(ec2.ec2) == [1]
    follow(ec2.ec2, [])
    assert code_of(client.describe_images) == ""


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("RequestLimitExceeded", 503),
        ("InternalError", 500),
        ("Unavailable", 503),
        ("InsufficientInstanceCapacity", 500),
        ("InstanceLimitExceeded", 400),
        ("ResourceLimitExceeded", 400),
        ("RequestExpired", 400),
        ("AuthFailure", 401),
    ],
)
def test_refusals_have_ec2s_own_status(ec2: Site, code: str, status: int) -> None:
    follow(ec2.ec2, [{"fault": "refused", "code": code}])
    with pytest.raises(ClientError) as refused:
        ec2.client().describe_images()
    assert refused.value.response["Error"]["Code"] == code
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert refused.value.response["ResponseMetadata"]["RequestId"]


def test_ebs_direct_refuses_with_its_own_errors(ec2: Site) -> None:
    follow(
        ec2.ec2,
        [
            {"fault": "refused", "code": "RequestLimitExceeded", "count": 2},
            {"fault": "refused", "code": "ExpiredToken"},
        ],
    )
    ebs = ec2.client("ebs")
    start = lambda: ebs.start_snapshot(VolumeSize=1)  # noqa: E731
    # The client itself tries once more what was throttled.
    assert code_of(start) == "RequestThrottledException"
    assert code_of(start) == "ExpiredTokenException"


def test_count_and_skip_are_for_each_action_in_each_region(ec2: Site) -> None:
    follow(
        ec2.ec2,
        [{"fault": "refused", "code": "AuthFailure", "skip": 1, "count": 2}],
    )
    for client in (ec2.client(), ec2.client(region="eu-west-1")):
        for call in (client.describe_images, client.describe_volumes):
            refused = [bool(code_of(call)) for _ in range(5)]
            assert refused == [False, True, True, False, False]
    assert struck(ec2.ec2) == [8]


def decisions(plan: Plan, calls: list[tuple[str, str]]) -> dict[tuple[str, str], list[bool]]:
    faults = Faults(plan)
    made: dict[tuple[str, str], list[bool]] = {}
    for call in calls:
        made.setdefault(call, []).append(bool(list(faults.due(ON_CALLS, *call))))
    return made


def test_seed_alone_decides_whatever_the_order_of_regions() -> None:
    rule = {"fault": "reset", "probability": 0.4}
    calls = [("CopySnapshot", "eu-west-1"), ("CopySnapshot", "us-east-1")]
    plan = Plan.of({"seed": 5, "faults": [rule]})
    turn_by_turn = decisions(plan, calls * 200)
    assert decisions(plan, [calls[0]] * 200 + [calls[1]] * 200) == turn_by_turn
    assert decisions(Plan.of({"seed": 6, "faults": [rule]}), calls * 200) != turn_by_turn
    for made in turn_by_turn.values():
        assert 50 < sum(made) < 110


def test_times_count_from_when_the_plan_was_set(ec2: Site) -> None:
    client = ec2.client()
    rule = {"fault": "refused", "code": "RequestExpired", "after": 0.3, "until": 0.8}
    follow(ec2.ec2, [rule])
    began = time.monotonic()
    seen = []
    while (passed := time.monotonic() - began) < 2:
        seen.append((passed, code_of(client.describe_images)))
    # When exactly it began is between two moments; what is clear of them has to be right.
    assert {code for passed, code in seen if passed > 1.5} == {""}
    assert "RequestExpired" in {code for _, code in seen}
    assert struck(ec2.ec2)[0] == len([code for _, code in seen if code])


# What happens


def test_reset_call_has_no_effect_and_a_late_one_has(ec2: Site) -> None:
    client = once(ec2)
    held = volume(client)
    for late in (False, True):
        follow(ec2.ec2, [{"fault": "reset", "late": late, "action": "DeleteVolume"}])
        with pytest.raises(HTTPClientError):
            client.delete_volume(VolumeId=held)
        assert state(client, held) == ("" if late else "available")


def test_late_refusal_takes_effect(ec2: Site) -> None:
    client = ec2.client()
    source = volume(client)
    refusal = {"fault": "refused", "code": "UnauthorizedOperation", "late": True}
    follow(ec2.ec2, [{**refusal, "action": "CreateSnapshot"}])
    assert code_of(lambda: client.create_snapshot(VolumeId=source)) == "UnauthorizedOperation"
    assert len(client.describe_snapshots(OwnerIds=["self"])["Snapshots"]) == 1


def test_slow_call_takes_its_seconds(ec2: Site) -> None:
    client = ec2.client()
    follow(ec2.ec2, [{"fault": "slow", "seconds": 0.5, "action": "DescribeImages"}])
    began = time.monotonic()
    client.describe_images()
    assert time.monotonic() - began >= 0.5


def test_hanging_call_ends_when_its_plan_is_replaced(ec2: Site) -> None:
    client = ec2.client()
    follow(ec2.ec2, [{"fault": "slow", "seconds": 100_000, "action": "DescribeImages"}])
    calm = threading.Timer(0.5, follow, (ec2.ec2, []))
    calm.start()
    # boto3 tries once more, and the second try is not delayed.
    assert "Images" in client.describe_images()
    calm.join()


def test_fresh_resource_is_unknown_for_some_seconds(ec2: Site) -> None:
    client = ec2.client()
    follow(ec2.ec2, [{"fault": "unknown", "seconds": 1}])
    began = time.monotonic()
    made = client.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    said = {
        code_of(lambda: client.describe_volumes(VolumeIds=[made])),
        code_of(lambda: client.create_snapshot(VolumeId=made)),
        state(client, made),
    }
    if time.monotonic() - began < 1:
        assert said == {"InvalidVolume.NotFound", ""}
    until(lambda: state(client, made) == "available")
    assert time.monotonic() - began >= 1
    assert client.create_snapshot(VolumeId=made)["VolumeId"] == made


def test_fresh_resource_is_unknown_to_the_first_calls_that_name_it(ec2: Site) -> None:
    client = ec2.client()
    made = volume(client)
    follow(ec2.ec2, [{"fault": "unknown", "answers": 2}])
    asked = [code_of(lambda: client.describe_volumes(VolumeIds=[made])) for _ in range(3)]
    assert asked == ["InvalidVolume.NotFound", "InvalidVolume.NotFound", ""]
    assert struck(ec2.ec2) == [2]


def test_fresh_group_is_unknown_and_not_shown(ec2: Site) -> None:
    client = ec2.client()
    follow(ec2.ec2, [{"fault": "unknown", "seconds": 600, "region": "us-east-1"}])
    made = client.create_security_group(GroupName="mine", Description="mine")["GroupId"]
    named = {"GroupIds": [made]}
    assert code_of(lambda: client.describe_security_groups(**named)) == "InvalidGroup.NotFound"
    shown = {group["GroupName"] for group in client.describe_security_groups()["SecurityGroups"]}
    assert "mine" not in shown
    assert "default" in shown
    follow(ec2.ec2, [])
    assert client.describe_security_groups(**named)["SecurityGroups"][0]["GroupName"] == "mine"


def test_fresh_snapshot_is_unknown_to_ebs_direct(ec2: Site) -> None:
    ebs = ec2.client("ebs")
    follow(ec2.ec2, [{"fault": "unknown", "seconds": 600}])
    made = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    complete = lambda: ebs.complete_snapshot(SnapshotId=made, ChangedBlocksCount=0)  # noqa: E731
    assert code_of(complete) == "ResourceNotFoundException"
    follow(ec2.ec2, [])
    assert code_of(complete) == ""


def test_stale_answer_shows_an_earlier_state(ec2: Site) -> None:
    client = ec2.client()
    follow(ec2.ec2, [{"fault": "stale", "seconds": 1, "action": "DescribeVolumes"}])
    began = time.monotonic()
    made = client.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    before = state(client, made)
    if time.monotonic() - began < 1:
        assert before == ""
    until(lambda: state(client, made) == "available")
    time.sleep(1.1)
    removed = time.monotonic()
    client.delete_volume(VolumeId=made)
    after = state(client, made)
    if time.monotonic() - removed < 1:
        assert after == "available"
    until(lambda: state(client, made) == "")


def test_snapshot_may_fail_and_the_next_one_never_end(ec2: Site) -> None:
    client = ec2.client()
    source = volume(client)
    completion = {"action": "SnapshotCompletion"}
    follow(
        ec2.ec2,
        [
            {"fault": "failed", "message": "disk broken", "count": 1, **completion},
            {"fault": "unfinished", "count": 1, **completion},
        ],
    )
    ends = []
    for _ in range(3):
        made = client.create_snapshot(VolumeId=source)["SnapshotId"]
        time.sleep(0.5)
        ends.append(client.describe_snapshots(SnapshotIds=[made])["Snapshots"][0])
    assert [end["State"] for end in ends[:2]] == ["error", "pending"]
    assert ends[0]["StateMessage"] == "disk broken"
    until(lambda: state(client, ends[2]["SnapshotId"]) == "completed")


def test_whole_ec2_refuses_connections_and_comes_back_where_it_was(ec2: Site) -> None:
    client = ec2.client()
    made = volume(client)
    ec2.ec2.down()
    with pytest.raises(EndpointConnectionError):
        client.describe_volumes()
    ec2.ec2.up()
    assert state(client, made) == "available"


def test_many_calls_at_once_lose_nothing_to_resets(ec2: Site) -> None:
    """A reset ends its own connection and no other."""
    follow(ec2.ec2, [{"fault": "reset", "action": "DescribeImages"}])
    ended: list[str] = []

    client = once(ec2)

    def ask(action: str) -> None:
        try:
            getattr(client, action)()
            ended.append("well")
        except HTTPClientError:
            ended.append("reset")

    threads = [
        threading.Thread(target=ask, args=(action,))
        for action in ("describe_images", "describe_volumes") * 8
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (ended.count("well"), ended.count("reset")) == (8, 8)


# The plan itself


def test_example_shows_every_kind_of_fault() -> None:
    plan = Plan.of(tomllib.loads(EXAMPLE.read_text()))
    assert {rule.fault for rule in plan.rules} == {*ON_CALLS, *ON_COMPLETIONS, *ON_MACHINES}


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ([], "has seed and faults"),
        ({"seeds": 1}, "has seed and faults"),
        ({"seed": "x"}, "seed is a whole number"),
        ({"faults": [{"action": "*"}]}, "fault 1 is no table with a key fault"),
        ({"faults": [{"fault": "reset"}, {"fault": "eaten"}]}, "fault 2: fault = 'eaten'"),
        ({"faults": [{"fault": "reset", "acton": "*"}]}, "unknown key acton; known: fault, action"),
        ({"faults": [{"fault": "refused"}]}, "needs a code"),
        ({"faults": [{"fault": "slow"}]}, "slow needs seconds"),
        ({"faults": [{"fault": "unknown"}]}, "needs seconds, or answers"),
        ({"faults": [{"fault": "reset", "count": "2"}]}, "count = '2' is none of int"),
        ({"faults": [{"fault": "reset", "probability": 2}]}, "not between 0 and 1"),
        ({"faults": [{"fault": "reset", "action": [1]}]}, r"action = \[1\] is none of"),
    ],
)
def test_plan_without_the_described_effect_is_refused(plan: Any, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        Plan.of(plan)
