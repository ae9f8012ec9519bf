"""Test batched polls: which thread calls EC2, for which ids, and when."""

import threading
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fedimg.aws import snapshots
from fedimg.aws.client import batched_polling
from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.waiter import Waiter
from fedimg.config import Limits
from fedimg.exceptions import Cancelled, EC2ServiceException
from tests.aws.clock import Clock


class Snapshots:
    """A region's snapshots, each with its time of completion, and a record of the calls."""

    def __init__(self, clock: Clock, **completed: float) -> None:
        self.clock = clock
        self.completed = completed
        self.asked: list[tuple[float, list[str]]] = []

    def describe_snapshots(self, **given: Any) -> dict[str, Any]:
        if "SnapshotIds" in given:
            raise ClientError({"Error": {"Code": "InvalidSnapshot.NotFound"}}, "DescribeSnapshots")
        (filtered,) = given["Filters"]
        self.asked.append((self.clock.now - 1000, filtered["Values"]))
        rows = [
            {
                "SnapshotId": snapshot,
                "State": "completed" if self.clock.now - 1000 >= at else "pending",
            }
            for snapshot, at in self.completed.items()
            if snapshot in filtered["Values"]
        ]
        return {"Snapshots": rows}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fedimg.aws.client.waiter.time", clock)
    monkeypatch.setattr(batched_polling, "time", clock)
    return clock


@pytest.fixture
def waiter(clock: Clock) -> Waiter:
    return Waiter(Limits(wait_minimum=1, wait_maximum=15, settle=120), clock)


def wait(
    ec2: Any, waiter: Waiter, snapshot: str, together: BatchedPolling, limit: float = 3600
) -> None:
    snapshots.completed(ec2, waiter, snapshot, limit=limit, polling=together)


def test_first_poll_comes_after_a_pause(clock: Clock, waiter: Waiter) -> None:
    ec2 = Snapshots(clock, a=0)
    wait(ec2, waiter, "a", BatchedPolling())
    assert ec2.asked == [(1, ["a"])]


def test_one_call_answers_all_threads_that_wait(clock: Clock, waiter: Waiter) -> None:
    ec2, together = Snapshots(clock, a=1, b=1), BatchedPolling()

    def judge(shown: list[dict[str, Any]]) -> bool | None:
        # While one waits, another begins to, and sees both.
        if len(ec2.asked) == 1:
            clock.now += 0.1
            wait(ec2, waiter, "b", together)
            return None
        return True

    what = {"what": "a completed", "limit": 60}
    together.snapshots.wait(ec2, waiter, ["a"], judge, **what)
    assert [names for _, names in ec2.asked] == [["a"], ["a", "b"]]


def test_fresh_answer_is_taken_and_a_stale_one_is_not(clock: Clock, waiter: Waiter) -> None:
    ec2, poll = Snapshots(clock, a=0, b=0), BatchedPolling().snapshots
    with poll._awaiting(["a", "b"]):
        poll._rows_since(ec2, waiter, ["a"], clock.now)
        clock.now += 1
        poll._rows_since(ec2, waiter, ["b"], clock.now - 1)
        assert len(ec2.asked) == 1
        poll._rows_since(ec2, waiter, ["b"], clock.now - 0.5)
        assert len(ec2.asked) == 2


def test_polls_are_timed_by_earlier_durations(clock: Clock, waiter: Waiter) -> None:
    ec2, together = Snapshots(clock, a=300), BatchedPolling()
    wait(ec2, waiter, "a", together)
    first = len(ec2.asked)
    began = clock.now - 1000
    ec2.completed["b"] = began + 300
    wait(ec2, waiter, "b", together)
    late = clock.now - 1000 - began - 300
    assert 0 <= late <= 15
    assert len(ec2.asked) - first <= first


def test_short_waits_are_polled_often_once_measured(clock: Clock, waiter: Waiter) -> None:
    ec2, together = Snapshots(clock), BatchedPolling()
    for number in range(10):
        began = clock.now - 1000
        ec2.completed[f"s{number}"] = began + 20
        wait(ec2, waiter, f"s{number}", together)
    assert clock.now - 1000 - began - 20 <= 1


def test_resource_much_faster_than_earlier_ones_is_noticed_in_time(
    clock: Clock, waiter: Waiter
) -> None:
    ec2, together = Snapshots(clock, long=3000), BatchedPolling()
    wait(ec2, waiter, "long", together)
    began = clock.now - 1000
    ec2.completed["short"] = began + 10
    wait(ec2, waiter, "short", together)
    assert clock.now - 1000 - began <= 15


def test_no_filter_has_more_values_than_ec2_takes(clock: Clock, waiter: Waiter) -> None:
    many = {f"snap-{number:04}": 0.0 for number in range(450)}
    ec2, poll = Snapshots(clock, **many), BatchedPolling().snapshots
    judge = lambda shown: len(shown)  # noqa: E731
    assert poll.wait(ec2, waiter, sorted(many), judge, what="all", limit=60) == 450
    assert [len(names) for _, names in ec2.asked] == [200, 200, 50]


def test_unknown_resource_is_reported_with_ec2s_message(clock: Clock, waiter: Waiter) -> None:
    with pytest.raises(ClientError, match=r"InvalidSnapshot\.NotFound"):
        wait(Snapshots(clock), waiter, "gone", BatchedPolling())


def test_limit_holds_whatever_duration_was_expected(clock: Clock, waiter: Waiter) -> None:
    ec2, together = Snapshots(clock, a=600, b=1e9), BatchedPolling()
    wait(ec2, waiter, "a", together)
    began = clock.now
    with pytest.raises(EC2ServiceException, match="snapshot b to complete"):
        wait(ec2, waiter, "b", together, limit=30)
    assert clock.now - began == pytest.approx(30)


def test_thread_that_waits_for_another_ones_answer_can_be_stopped() -> None:
    asked, answer, stop = threading.Event(), threading.Event(), threading.Event()
    limits = Limits(wait_minimum=0.01, wait_maximum=0.01)
    together = BatchedPolling()

    class Slow:
        def describe_snapshots(self, **given: Any) -> dict[str, Any]:
            asked.set()
            assert answer.wait(240)
            return {"Snapshots": [{"SnapshotId": "a", "State": "completed"}]}

    asking = threading.Thread(
        target=wait, args=(Slow(), Waiter(limits, threading.Event()), "a", together)
    )
    asking.start()
    try:
        assert asked.wait(240)
        threading.Timer(0.1, stop.set).start()
        with pytest.raises(Cancelled):
            wait(Slow(), Waiter(limits, stop), "b", together)
    finally:
        answer.set()
        asking.join()
