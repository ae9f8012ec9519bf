"""Wait for EC2: poll and retry at growing intervals, within limits, until stopped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from fedimg.aws.client.errors import expired, not_found, passing
from fedimg.config import Limits
from fedimg.exceptions import Cancelled, EC2ServiceException
from fedimg.process.wait_log import WaitLog
from fedimg.untrusted.failures import of_endpoint

T = TypeVar("T")

_GROWTH = 1.4
# In multiples of the expected duration: when frequent polling begins and ends, and its
# interval. A resource that is ready early shortens the next estimate.
_FREQUENT_FROM, _FREQUENT_UNTIL, _FREQUENT_STEP = 0.8, 1.5, 0.05
# The interval as a share of the elapsed time, without an estimate or beyond it.
_INTERVAL_SHARE = 0.1


_CREDENTIALS = "credentials"

#: The outages that the waiters of this process have logged, by region, or as `_CREDENTIALS`.
_outages = WaitLog(logging.getLogger(__name__))


class Watch(Protocol):
    """Tells an outage of a whole region from a call that fails."""

    def raise_if_away(self) -> None:
        """Raise EC2ServiceException when the region is known to be unavailable."""

    def failed(self, error: Exception, seconds: float, limit: float) -> None:
        """Judge an error that has recurred for some seconds, of `limit`.

        Raises what `raise_if_away` does.
        """


class Waiter:
    """Waits for EC2 within `limits`. Every wait ends with Cancelled soon after `stop` is set.

    `on_progress` is called with a text while EC2 does not answer, and with an empty one when it
    answers again. With a `watch`, a wait ends when the region is unavailable. A wait for a `region`
    that lasts longer than a pause is a warning in the log at its beginning, at intervals, and at
    its end, once for all jobs of the process. `service` is whose answers are waited for, in words.
    """

    def __init__(
        self,
        limits: Limits,
        stop: threading.Event,
        on_progress: Callable[[str], None] = lambda text: None,
        watch: Watch | None = None,
        region: str = "",
        service: str = "EC2",
    ) -> None:
        self._minimum = limits.wait_minimum
        self._maximum = limits.wait_maximum
        self._settle = limits.settle
        self._outage = limits.outage
        self._on_progress = on_progress
        self._watch = watch
        self._region = region
        self._service = service
        self.stop = stop

    def until(
        self,
        poll: Callable[[], T | None],
        *,
        what: str,
        limit: float,
        repeatable: bool = True,
        expected: float | None = None,
    ) -> T:
        """Return the first answer of `poll` that is not None, polled for at most `limit` seconds.

        `what` completes "waiting for …" in the error. `expected` is the estimated duration in
        seconds, or 0 without an earlier measurement: then the first poll comes after a pause, and
        polls are most frequent around that time. Without an earlier measurement the interval is 10
        % of the elapsed time.

        A resource that EC2 does not know yet is polled until `limits.settle`, and a region that
        does not answer until `limits.outage`, whatever the limit. A call that must not be repeated
        when it may have taken effect is not `repeatable`. Raises EC2ServiceException when the limit
        passes, and EC2's last error when one of the others does.
        """
        started = time.monotonic()
        failing_since: float | None = None
        since, reported = "", False
        pause = self._minimum
        if expected is not None:
            self.pause(min(self._next(0.0, expected), limit))
        while True:
            self.raise_if_over()
            waited = time.monotonic() - started
            try:
                answer = poll()
                failing_since = None
                if reported:
                    self._answered()
                    reported = False
            except Exception as error:
                if failing_since is None:
                    failing_since, since = time.monotonic(), _clock()
                failing = time.monotonic() - failing_since
                away = repeatable and passing(error)
                if away:
                    self._judge(error, failing)
                tolerable = failing < self._outage if away else not_found(error)
                # At the end, EC2's own message says more than a timeout.
                if not tolerable or (not away and (failing >= self._settle or waited >= limit)):
                    raise
                # A failure that passes within one pause is not reported.
                if away and failing >= self._maximum:
                    reported = reported or self._report(since, error)
                    self._log_outage(since, error)
                answer = None
            if answer is not None:
                return answer
            left = limit - waited
            if left <= 0 and failing_since is None:
                raise EC2ServiceException(
                    f"timed out after {limit:g} s waiting for {what}", later=True
                )
            if expected is not None:
                pause = self._next(waited, expected)
            self.pause(min(pause, left) if left > 0 else pause)
            if expected is None:
                pause = min(pause * _GROWTH, self._maximum)

    def _next(self, waited: float, expected: float) -> float:
        """Return the next pause after `waited` seconds."""
        early = _FREQUENT_FROM * expected - waited
        if early > self._minimum:
            return min(early, self._maximum)
        if waited < _FREQUENT_UNTIL * expected:
            return min(max(_FREQUENT_STEP * expected, self._minimum), self._maximum)
        return min(max(_INTERVAL_SHARE * waited, self._minimum), self._maximum)

    def settled(self, call: Callable[[], T]) -> T:
        """Return the result of a call on new resources, retried until EC2 knows them everywhere."""
        return self.until(lambda: (call(),), what="EC2 to know the resource", limit=self._settle)[0]

    def retried(self, call: Callable[[], T]) -> T:
        """Return the result of a repeatable call, retried while EC2 does not answer.

        Raises EC2's other errors at once, and the last error when the outage exceeds its limit.
        """
        away_since: float | None = None
        since = ""
        pause = self._minimum
        while True:
            self.raise_if_over()
            try:
                answer = call()
            except Exception as error:
                if away_since is None:
                    away_since, since = time.monotonic(), _clock()
                self._judge(error, time.monotonic() - away_since)
                if not passing(error) or time.monotonic() - away_since >= self._outage:
                    raise
                self._report(since, error)
                if time.monotonic() - away_since >= self._maximum:
                    self._log_outage(since, error)
            else:
                if since:
                    self._answered()
                return answer
            self.pause(pause)
            pause = min(pause * _GROWTH, self._maximum)

    def until_listed(self, find: Callable[[], T | None], *, what: str) -> T:
        """Return an existing resource once EC2 lists it. Raises EC2ServiceException if it never
        does.
        """
        return self.until(find, what=f"EC2 to list {what}", limit=self._settle)

    def make(
        self,
        make: Callable[[], T],
        find: Callable[[], T | None],
        *,
        find_first: bool,
        doubted: Callable[[], object] = lambda: None,
    ) -> T:
        """Create a resource once, by a call that takes no client token.

        When an earlier try may have taken effect (`find_first`, or a call whose outcome is in
        doubt), `find` runs before `make` is retried; `doubted` is called for each such try.
        """
        doubt = find_first
        if doubt:
            doubted()
        failing_since: float | None = None
        pause = self._minimum
        while True:
            self.raise_if_over()
            if doubt and (existing := find()) is not None:
                return existing
            try:
                return make()
            except Exception as error:
                # Counted from the first failure, since the call itself may take long.
                failing_since = failing_since or time.monotonic()
                failing = time.monotonic() - failing_since
                self._judge(error, failing)
                tolerated = self._outage if passing(error) else self._settle
                if not (passing(error) or not_found(error)) or failing >= tolerated:
                    raise
            doubt = True
            doubted()
            self.pause(pause)
            pause = min(pause * _GROWTH, self._maximum)

    def pause(self, seconds: float) -> None:
        """Wait for some seconds. Raises Cancelled when stopped meanwhile."""
        self.stop.wait(seconds)
        self.raise_if_over()

    def raise_if_over(self) -> None:
        """Raise Cancelled when stopped, and EC2ServiceException when the region is unavailable."""
        if self.stop.is_set():
            raise Cancelled
        if self._watch is not None:
            self._watch.raise_if_away()

    def _report(self, since: str, error: Exception) -> bool:
        self._on_progress(self._outage_text(since, error))
        return True

    def _answered(self) -> None:
        self._on_progress("")
        for key in (self._waited_for, _CREDENTIALS) if self._region else ():
            _outages.over(key, f"{self._service} answers again: {key}", region=self._region)

    def _log_outage(self, since: str, error: Exception) -> None:
        if not self._region:
            return
        # Credentials are refused everywhere at once, which is one outage.
        key = _CREDENTIALS if expired(error) else self._waited_for
        _outages.waiting(key, f"{key}: {self._outage_text(since, error)}", region=self._region)

    @property
    def _waited_for(self) -> str:
        """Name what the log tells an outage of: a region, or another service of it than EC2."""
        return self._region if self._service == "EC2" else f"{self._service} in {self._region}"

    def _outage_text(self, since: str, error: Exception) -> str:
        action = "accept the worker's credentials" if expired(error) else "answer"
        return f"waiting for {self._service} to {action}, since {since}: {of_endpoint(error)}"

    def _judge(self, error: Exception, seconds: float) -> None:
        """Raise EC2ServiceException when an error that has recurred for so long means an outage."""
        if self._watch is not None and passing(error):
            self._watch.failed(error, seconds, self._outage)


def _clock() -> str:
    return f"{datetime.now(UTC):%H:%M:%S} UTC"
