"""Plain steps, which record nothing: branches, their order and their failures.

Follows fedimg/parallel.py.
"""

import threading

import pytest

from fedimg.exceptions import Cancelled, EC2ServiceException
from fedimg.steps import Branch, PlainSteps


def line(name: str, body) -> Branch:
    return Branch([name], lambda steps: steps.run(name, body))


def fail(error: BaseException):
    raise error


def test_plain_branches_return_each_its_own_result():
    lines = {name: line(name, lambda name=name: name.upper()) for name in "abc"}
    assert PlainSteps().fan_out(lines, 2) == {"a": "A", "b": "B", "c": "C"}


def test_no_branches_give_nothing():
    assert PlainSteps().fan_out({}, 4) == {}


def test_one_at_a_time_is_one_after_the_other_in_order():
    order: list[str] = []
    PlainSteps().fan_out(
        {name: line(name, lambda name=name: order.append(name)) for name in "cab"}, 1
    )
    assert order == ["c", "a", "b"]


def test_all_at_once_are_all_at_once():
    meeting = threading.Barrier(5, timeout=10)
    PlainSteps().fan_out({name: line(name, meeting.wait) for name in "abcde"}, 5)


def test_other_branches_end_before_a_failure_is_raised():
    ended: list[str] = []
    failed = threading.Event()
    lines = {
        "a": line("a", lambda: (failed.set(), fail(EC2ServiceException("refused")))),
        "b": line("b", lambda: (failed.wait(240), ended.append("b"))),
    }
    with pytest.raises(EC2ServiceException, match="refused"):
        PlainSteps().fan_out(lines, 2)
    assert ended == ["b"]


def test_cancelled_is_raised_only_when_nothing_else_went_wrong():
    cancelled = line("a", lambda: fail(Cancelled()))
    refused = line("b", lambda: fail(EC2ServiceException("refused")))
    late = line("c", lambda: fail(EC2ServiceException("later")))
    with pytest.raises(EC2ServiceException, match="refused"):
        PlainSteps().fan_out({"a": cancelled, "b": refused, "c": late}, 3)
    with pytest.raises(Cancelled):
        PlainSteps().fan_out({"a": cancelled}, 1)
