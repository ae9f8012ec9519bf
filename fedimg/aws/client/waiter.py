"""The one waiter: looks again at a growing interval, within a limit, until told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from fedimg.aws.client.errors import expired, not_found, passing
from fedimg.config import Limits
from fedimg.exceptions import Cancelled, EC2ServiceException

T = TypeVar("T")

_GROWTH = 1.4
# From when until when something is most likely to happen, in multiples of the time expected; how
# long the pauses are then. Earlier than ever is noticed, too: the next one is looked for sooner.
_EARLY, _LATE, _STEP = 0.8, 1.5, 0.05
# The most that something is noticed late, as a share of what it took, where nobody knows or it is
# overdue.
_LATENESS = 0.1


class Watch(Protocol):
    """Tells a region that is away from a call that fails."""

    def check(self) -> None:
        """Raise what ends the waiting when the region is known to be away."""

    def failed(self, error: Exception, seconds: float, limit: float) -> None:
        """Judge an error that has come for some seconds, of `limit`; raises as `check` does."""


class Waiter:
    """Waits for EC2 as `limits` allow. Every wait ends with Cancelled soon after `stop` is set.

    `on_progress` is told, in words, when EC2 is waited for that does not answer. With a `watch`,
    nobody waits for a region that is away.
    """

    def __init__(
        self,
        limits: Limits,
        stop: threading.Event,
        on_progress: Callable[[str], None] = lambda words: None,
        watch: Watch | None = None,
    ) -> None:
        self._minimum = limits.wait_minimum
        self._maximum = limits.wait_maximum
        self._settle = limits.settle
        self._outage = limits.outage
        self._on_progress = on_progress
        self._watch = watch
        self.stop = stop

    def until(
        self,
        look: Callable[[], T | None],
        *,
        what: str,
        limit: float,
        repeatable: bool = True,
        expected: float | None = None,
    ) -> T:
        """The first answer of `look` that is not None, asked for at most `limit` seconds.

        With `expected`, the seconds that it probably takes, or 0 when nobody knows, it is not
        asked at once, and most often around that time.

        That EC2 does not know a resource yet counts as not ready for as long as it may take to
        settle, and that it does not answer for as long as an outage may last, whatever the limit;
        a call that must not be repeated when it may have taken effect is not `repeatable`. Raises
        EC2ServiceException when the limit passes; `what` says what was waited for.
        """
        started = time.monotonic()
        failing_since: float | None = None
        since, told = "", False
        pause = self._minimum
        if expected is not None:
            self.pause(min(self._next(0.0, expected), limit))
        while True:
            self.check()
            waited = time.monotonic() - started
            try:
                answer = look()
                failing_since = None
                if told:
                    self._on_progress("")
                    told = False
            except Exception as error:
                if failing_since is None:
                    failing_since, since = time.monotonic(), _clock()
                failing = time.monotonic() - failing_since
                away = repeatable and passing(error)
                if away:
                    self._judge(error, failing)
                known = failing < self._outage if away else not_found(error)
                # At the end, EC2's own words say more than ours.
                if not known or (not away and (failing >= self._settle or waited >= limit)):
                    raise
                # What passes within a pause is not worth a word.
                if away and not told and failing >= self._maximum:
                    told = True
                    self._on_progress(_waiting(since, error))
                answer = None
            if answer is not None:
                return answer
            left = limit - waited
            if left <= 0 and failing_since is None:
                raise EC2ServiceException(
                    f"{what}: not so after {limit:g} s; gave up waiting", later=True
                )
            if expected is not None:
                pause = self._next(waited, expected)
            self.pause(min(pause, left) if left > 0 else pause)
            if expected is None:
                pause = min(pause * _GROWTH, self._maximum)

    def _next(self, waited: float, expected: float) -> float:
        """The next pause, after `waited` seconds."""
        early = _EARLY * expected - waited
        if early > self._minimum:
            return min(early, self._maximum)
        if waited < _LATE * expected:
            return min(max(_STEP * expected, self._minimum), self._maximum)
        return min(max(_LATENESS * waited, self._minimum), self._maximum)

    def settled(self, call: Callable[[], T]) -> T:
        """The result of a call on fresh resources, tried until EC2 knows them everywhere."""
        return self.until(lambda: (call(),), what="resource known to EC2", limit=self._settle)[0]

    def outlasted(self, call: Callable[[], T]) -> T:
        """The result of a call that may be repeated, when EC2 is there again to give it.

        Raises whatever else EC2 says, and what it last said when the outage lasts too long.
        """
        away_since: float | None = None
        since = ""
        pause = self._minimum
        while True:
            self.check()
            try:
                answer = call()
            except Exception as error:
                if away_since is None:
                    away_since, since = time.monotonic(), _clock()
                self._judge(error, time.monotonic() - away_since)
                if not passing(error) or time.monotonic() - away_since >= self._outage:
                    raise
                self._on_progress(_waiting(since, error))
            else:
                if since:
                    self._on_progress("")
                return answer
            self.pause(pause)
            pause = min(pause * _GROWTH, self._maximum)

    def shown(self, find: Callable[[], T | None], *, what: str) -> T:
        """A thing that exists, once EC2 shows it. Raises EC2ServiceException if it never does."""
        return self.until(find, what=f"{what} shown by EC2", limit=self._settle)

    def make(
        self,
        make: Callable[[], T],
        find: Callable[[], T | None],
        *,
        look_first: bool,
        doubted: Callable[[], object] = lambda: None,
    ) -> T:
        """Make a thing once by a call that EC2 gives no client token for.

        When an earlier try may have taken effect (`look_first`, or a call whose outcome is in
        doubt), `find` is asked before `make` is called again; `doubted` is told of such a call.
        """
        doubt = look_first
        if doubt:
            doubted()
        failing_since: float | None = None
        pause = self._minimum
        while True:
            self.check()
            if doubt and (found := find()) is not None:
                return found
            try:
                return make()
            except Exception as error:
                # Counted from the first failure: the call itself may wait for long.
                failing_since = failing_since or time.monotonic()
                failing = time.monotonic() - failing_since
                self._judge(error, failing)
                patience = self._outage if passing(error) else self._settle
                if not (passing(error) or not_found(error)) or failing >= patience:
                    raise
            doubt = True
            doubted()
            self.pause(pause)
            pause = min(pause * _GROWTH, self._maximum)

    def pause(self, seconds: float) -> None:
        """Let time pass. Raises Cancelled when told to stop meanwhile."""
        self.stop.wait(seconds)
        self.check()

    def check(self) -> None:
        """Raises Cancelled when told to stop, and EC2ServiceException when the region is away."""
        if self.stop.is_set():
            raise Cancelled
        if self._watch is not None:
            self._watch.check()

    def _judge(self, error: Exception, seconds: float) -> None:
        """Raise EC2ServiceException when an error that has come for so long tells of an outage."""
        if self._watch is not None and passing(error):
            self._watch.failed(error, seconds, self._outage)


def _clock() -> str:
    return f"{datetime.now(UTC):%H:%M:%S} UTC"


def _waiting(since: str, error: Exception) -> str:
    whom = "EC2 to take the worker's credentials" if expired(error) else "EC2"
    return f"waiting for {whom} since {since}: {error}"
