"""The one waiter: looks again at a growing interval, within a limit, until told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from fedimg.aws.refusals import in_doubt, not_found
from fedimg.config import Limits
from fedimg.exceptions import Cancelled, EC2ServiceException

T = TypeVar("T")

_GROWTH = 1.4


class Waiter:
    """Waits for EC2 as `limits` allow. Every wait ends with Cancelled soon after `stop` is set."""

    def __init__(self, limits: Limits, stop: threading.Event) -> None:
        self._minimum = limits.wait_minimum
        self._maximum = limits.wait_maximum
        self._settle = limits.settle
        self.stop = stop

    def until(
        self, look: Callable[[], T | None], *, what: str, limit: float, repeatable: bool = True
    ) -> T:
        """The first answer of `look` that is not None, asked for at most `limit` seconds.

        That EC2 does not know a resource yet, or does not answer, counts as not ready, until it
        has gone on for as long as EC2 may take to settle; a call that must not be repeated when
        it may have taken effect is not `repeatable`. Raises EC2ServiceException when the limit
        passes; `what` says what was waited for.
        """
        started = time.monotonic()
        failing_since: float | None = None
        pause = self._minimum
        while True:
            self.check()
            waited = time.monotonic() - started
            try:
                answer = look()
                failing_since = None
            except Exception as error:
                failing_since = failing_since or time.monotonic()
                passing = not_found(error) or (repeatable and in_doubt(error))
                failing = time.monotonic() - failing_since
                # At the end, EC2's own words say more than ours.
                if not passing or failing >= self._settle or waited >= limit:
                    raise
                answer = None
            if answer is not None:
                return answer
            if waited >= limit:
                raise EC2ServiceException(f"{what}: not so after {limit:g} s; gave up waiting")
            self.pause(min(pause, limit - waited))
            pause = min(pause * _GROWTH, self._maximum)

    def settled(self, call: Callable[[], T]) -> T:
        """The result of a call on fresh resources, tried until EC2 knows them everywhere."""
        return self.until(lambda: (call(),), what="resource known to EC2", limit=self._settle)[0]

    def shown(self, find: Callable[[], T | None], *, what: str) -> T:
        """A thing that exists, once EC2 shows it. Raises EC2ServiceException if it never does."""
        return self.until(find, what=f"{what} shown by EC2", limit=self._settle)

    def make(self, make: Callable[[], T], find: Callable[[], T | None], *, look_first: bool) -> T:
        """Make a thing once by a call that EC2 gives no client token for.

        When an earlier try may have taken effect (`look_first`, or a call whose outcome is in
        doubt), `find` is asked before `make` is called again.
        """
        doubt = look_first
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
                passing = in_doubt(error) or not_found(error)
                if not passing or time.monotonic() - failing_since >= self._settle:
                    raise
            doubt = True
            self.pause(pause)
            pause = min(pause * _GROWTH, self._maximum)

    def pause(self, seconds: float) -> None:
        """Let time pass. Raises Cancelled when told to stop meanwhile."""
        self.stop.wait(seconds)
        self.check()

    def check(self) -> None:
        """Raises Cancelled when told to stop."""
        if self.stop.is_set():
            raise Cancelled
