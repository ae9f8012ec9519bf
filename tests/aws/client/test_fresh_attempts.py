import threading

import pytest

from fedimg.aws.client.fresh_attempts import first_success
from fedimg.aws.client.waiter import Waiter
from fedimg.config import Limits
from fedimg.exceptions import Cancelled


class Attempts:
    """Attempts that fail as told, one failure after the other, and what was seen of them."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.seen: list[str] = []
        self.stop = threading.Event()

    def __call__(self, number: int) -> str:
        self.seen.append(f"attempt {number}")
        if self.failures:
            raise self.failures.pop(0)
        return f"result of attempt {number}"

    def run(self, attempts: int) -> str:
        return first_success(
            self,
            Waiter(Limits(), self.stop),
            attempts=attempts,
            pause=0.001,
            new="snapshot",
            may_pass=lambda failure: isinstance(failure, TimeoutError),
            on_progress=self.seen.append,
            discard=lambda: self.seen.append("discarded"),
        )


def test_failure_that_may_pass_is_followed_by_an_attempt_with_a_new_resource() -> None:
    attempts = Attempts(TimeoutError("no answer"))
    assert attempts.run(3) == "result of attempt 1"
    assert attempts.seen == [
        "attempt 0",
        "attempt 1 failed, retrying with a new snapshot: no answer",
        "discarded",
        "attempt 1",
    ]


def test_other_failure_ends_the_attempts() -> None:
    attempts = Attempts(ValueError("no image"))
    with pytest.raises(ValueError, match="no image"):
        attempts.run(3)
    assert attempts.seen == ["attempt 0"]


def test_last_failure_is_raised_and_its_resource_kept() -> None:
    attempts = Attempts(TimeoutError("first"), TimeoutError("second"))
    with pytest.raises(TimeoutError, match="second"):
        attempts.run(2)
    assert attempts.seen.count("discarded") == 1
    assert attempts.seen[-1] == "attempt 1"


def test_single_attempt_is_not_repeated() -> None:
    with pytest.raises(TimeoutError):
        Attempts(TimeoutError()).run(1)


def test_stop_ends_the_pause_between_attempts() -> None:
    attempts = Attempts(TimeoutError())
    attempts.stop.set()
    with pytest.raises(Cancelled):
        attempts.run(2)
    assert attempts.seen[-1] == "discarded"
