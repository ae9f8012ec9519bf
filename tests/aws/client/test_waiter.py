import threading
import time

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from fedimg.aws.client.waiter import Waiter
from fedimg.config import Limits
from fedimg.exceptions import Cancelled, EC2ServiceException
from fedimg.process import wait_log
from fedimg.untrusted.failures import of_endpoint
from tests.aws.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fedimg.aws.client.waiter.time", clock)
    return clock


@pytest.fixture
def waiter(clock: Clock) -> Waiter:
    return Waiter(Limits(wait_minimum=1, wait_maximum=15, settle=120, outage=900), clock)


def refusal(code: str, status: int = 400) -> ClientError:
    error = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(error, "DescribeImages")


UNKNOWN = refusal("InvalidAMIID.NotFound")
NO_ANSWER = ReadTimeoutError(endpoint_url="http://ec2")


class Script:
    """Answers with one result after the other, and with the last one for ever."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self) -> object:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


# until


def test_first_answer_ends_the_wait(waiter):
    look = Script(None, None, "there", "later")
    assert waiter.until(look, what="it", limit=60) == "there"
    assert look.asked == 3


@pytest.mark.parametrize("answer", [False, 0, "", ()])
def test_empty_answer_is_an_answer(waiter, answer):
    assert waiter.until(Script(answer), what="it", limit=60) == answer


def test_pauses_grow_to_the_longest(waiter, clock):
    with pytest.raises(EC2ServiceException):
        waiter.until(Script(None), what="it", limit=300)
    assert clock.pauses[0] == 1
    assert clock.pauses[:-1] == sorted(clock.pauses[:-1])
    assert max(clock.pauses) == 15


def test_error_at_the_limit_names_limit_and_subject(waiter, clock):
    with pytest.raises(
        EC2ServiceException, match=r"timed out after 100 s waiting for snapshot snap-1 to complete"
    ):
        waiter.until(Script(None), what="snapshot snap-1 to complete", limit=100)
    assert clock.now == pytest.approx(1100)


def test_last_poll_comes_when_the_limit_has_passed(waiter, clock):
    look = lambda: "there" if clock.now >= 1100 else None  # noqa: E731
    assert waiter.until(look, what="it", limit=100) == "there"


def test_unknown_resource_is_waited_for_while_it_settles(waiter):
    assert waiter.until(Script(UNKNOWN, UNKNOWN, "there"), what="it", limit=60) == "there"


def test_resource_that_stays_unknown_raises_ec2s_error(waiter, clock):
    with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
        waiter.until(Script(UNKNOWN), what="it", limit=3600)
    assert 120 <= clock.now - 1000 <= 135


@pytest.mark.parametrize("trouble", [NO_ANSWER, refusal("InternalError", 500)])
def test_poll_that_ec2_does_not_answer_is_repeated(waiter, trouble):
    assert waiter.until(Script(trouble, trouble, "there"), what="it", limit=600) == "there"


def test_ec2_that_stays_silent_is_given_up_when_no_outage_lasts_so_long(waiter, clock):
    with pytest.raises(ReadTimeoutError):
        waiter.until(Script(None, NO_ANSWER), what="it", limit=600)
    assert 900 <= sum(clock.pauses) < 940


# retried

EXPIRED = [
    refusal("RequestExpired"),
    refusal("ExpiredTokenException", 403),
    refusal("AuthFailure", 401),
    NoCredentialsError(),
    CredentialRetrievalError(provider="instance profile", error_msg="no route to host"),
]


@pytest.mark.parametrize("trouble", [NO_ANSWER, refusal("RequestLimitExceeded", 503), *EXPIRED])
def test_outage_is_waited_for_and_reported(clock, trouble):
    heard: list[str] = []
    waiter = Waiter(Limits(outage=900), clock, heard.append)
    assert waiter.retried(Script(trouble, trouble, "there")) == "there"
    assert len(heard) == 3
    assert heard[0].startswith("waiting for EC2")
    assert ("credentials" in heard[0]) == (trouble in EXPIRED)
    assert of_endpoint(trouble) in heard[0]
    assert heard[-1] == ""


def test_outage_that_lasts_too_long_raises_its_last_error(waiter, clock):
    with pytest.raises(ReadTimeoutError):
        waiter.retried(Script(NO_ANSWER))
    assert 900 <= sum(clock.pauses) < 940


@pytest.mark.parametrize(
    "refused",
    [UNKNOWN, refusal("UnauthorizedOperation", 403), refusal("InsufficientInstanceCapacity", 500)],
)
def test_answer_that_is_a_refusal_is_no_outage(waiter, clock, refused):
    with pytest.raises(ClientError) as caught:
        waiter.retried(Script(refused))
    assert (caught.value, clock.pauses) == (refused, [])


def test_another_accounts_resource_is_not_waited_for(waiter, clock):
    error = refusal("AuthFailure", 401)
    error.response["Error"]["Message"] = "Not authorized for image:ami-1"
    with pytest.raises(ClientError):
        waiter.retried(Script(error))
    assert clock.pauses == []


def test_call_that_must_not_be_repeated_is_not(waiter):
    call = Script(NO_ANSWER)
    with pytest.raises(ReadTimeoutError):
        waiter.until(call, what="it", limit=600, repeatable=False)
    assert call.asked == 1


def test_refusal_ends_the_wait_at_once(waiter, clock):
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        waiter.until(Script(None, refusal("UnauthorizedOperation")), what="it", limit=60)
    assert clock.pauses == [1]


def test_settled_tries_until_ec2_knows_the_resource(waiter):
    assert waiter.settled(Script(UNKNOWN, None)) is None


def test_settled_raises_ec2s_error_at_the_limit(waiter):
    with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
        waiter.settled(Script(UNKNOWN))


def test_until_listed_names_the_missing_resource(waiter):
    with pytest.raises(EC2ServiceException, match="the AMI with the name X"):
        waiter.until_listed(Script(None), what="the AMI with the name X")


# Stopping


@pytest.mark.parametrize(
    "wait",
    [
        lambda waiter: waiter.until(Script(None), what="it", limit=60),
        lambda waiter: waiter.make(Script(NO_ANSWER), Script(None), find_first=True),
        lambda waiter: waiter.settled(Script(UNKNOWN)),
        lambda waiter: waiter.retried(Script(NO_ANSWER)),
        lambda waiter: waiter.pause(60),
    ],
)
def test_stop_ends_every_wait_promptly(wait):
    stop = threading.Event()
    waiter = Waiter(Limits(wait_minimum=30, wait_maximum=30), stop)
    timer = threading.Timer(0.1, stop.set)
    timer.start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        wait(waiter)
    assert time.monotonic() - started < 20


def test_stopped_waiter_asks_and_makes_nothing(waiter, clock):
    clock.set()
    look = Script("there")
    with pytest.raises(Cancelled):
        waiter.until(look, what="it", limit=60)
    with pytest.raises(Cancelled):
        waiter.make(look, look, find_first=True)
    assert look.asked == 0


# make

DOUBTS = [
    NO_ANSWER,
    ConnectionClosedError(endpoint_url="http://ec2"),
    ConnectTimeoutError(endpoint_url="http://ec2"),
    EndpointConnectionError(endpoint_url="http://ec2"),
    refusal("RequestLimitExceeded", 503),
    refusal("InternalError", 500),
    refusal("SomethingNew", 500),
]


def test_resource_is_made_without_a_search_when_nothing_was_tried(waiter):
    make, find = Script("made"), Script("found")
    assert waiter.make(make, find, find_first=False) == "made"
    assert find.asked == 0


def test_resource_of_an_earlier_try_is_found(waiter):
    make, find = Script("made"), Script("found")
    assert waiter.make(make, find, find_first=True) == "found"
    assert make.asked == 0


def test_resource_that_no_earlier_try_made_is_made(waiter):
    assert waiter.make(Script("made"), Script(None), find_first=True) == "made"


@pytest.mark.parametrize("doubt", DOUBTS, ids=repr)
def test_call_without_an_answer_is_looked_for_before_it_is_made_again(waiter, doubt):
    make, find = Script(doubt, "made twice"), Script("found")
    assert waiter.make(make, find, find_first=False) == "found"
    assert make.asked == 1


@pytest.mark.parametrize("doubt", DOUBTS, ids=repr)
def test_call_that_came_to_nothing_is_made_again(waiter, doubt):
    make, find = Script(doubt, doubt, "made"), Script(None)
    assert waiter.make(make, find, find_first=False) == "made"
    assert (make.asked, find.asked) == (3, 2)


def test_call_on_a_resource_that_ec2_does_not_know_yet_is_repeated(waiter):
    assert waiter.make(Script(UNKNOWN, "made"), Script(None), find_first=False) == "made"


def test_refused_call_is_not_made_again(waiter, clock):
    make = Script(refusal("InvalidParameterValue"))
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        waiter.make(make, Script(None), find_first=False)
    assert (make.asked, clock.pauses) == (1, [])


def test_failing_calls_are_given_up_with_the_last_failure(waiter, clock):
    with pytest.raises(ReadTimeoutError):
        waiter.make(Script(NO_ANSWER), Script(None), find_first=False)
    assert 900 <= clock.now - 1000 <= 915


def test_duration_of_a_call_does_not_count_as_an_outage(waiter, clock):
    # Such as an hour's wait for a slot among a region's copies, and then one lost answer.
    answers = Script(NO_ANSWER, "made")

    def make():
        clock.now += 3600
        return answers()

    assert waiter.make(make, Script(None), find_first=False) == "made"


# What the log has of a wait


def test_wait_for_a_region_is_a_warning_at_its_beginning_at_intervals_and_at_its_end(
    clock, caplog, monkeypatch
):
    monkeypatch.setattr(wait_log, "time", clock)
    # Half an hour without credentials, which two regions of a job wait for.
    until = clock.now + 1800
    limits = Limits(wait_minimum=1, wait_maximum=15, outage=3600)

    def call():
        if clock.now < until:
            raise refusal("ExpiredToken")
        return "there"

    for region in ("us-east-1", "eu-west-1"):
        assert Waiter(limits, clock, region=region).retried(call) == "there"
    said = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(said) == 3
    assert said[0].startswith("credentials: waiting for EC2 to accept the worker's credentials")
    assert "DescribeImages was refused with ExpiredToken" in said[0]
    assert said[1].endswith("(waiting for 15 min)")
    assert said[2].startswith("EC2 answers again: credentials (after 17")


def test_wait_that_passes_at_once_is_not_logged(clock, caplog):
    limits = Limits(wait_minimum=1, wait_maximum=15, outage=900)
    Waiter(limits, clock, region="us-east-1").retried(Script(NO_ANSWER, NO_ANSWER, "there"))
    assert caplog.records == []
