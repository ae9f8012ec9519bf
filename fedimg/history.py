"""What is forgotten of work long done, so that the database does not grow for ever.

Jobs, their AMIs and their checks stay, and so does what was announced when: only the queue's own
record of each step goes, and the texts of messages.
"""

from __future__ import annotations

import logging
import threading
import time

from fedimg.jobs import Jobs
from fedimg.store import Store

_DAY = 86400.0

_log = logging.getLogger(__name__)


def forget(store: Store, queue: Jobs, days: float) -> None:
    """Forget what ended, and what the bus took, over `days` days ago."""
    before = time.time() - days * _DAY
    ended = queue.forget_ended(before)
    texts = store.forget_announced(before)
    if ended or texts:
        _log.info(
            "forgot the steps of %d workflows and the texts of %d messages, all over %g days old",
            ended,
            texts,
            days,
        )


def forget_daily(store: Store, queue: Jobs, days: float) -> None:
    """Forget now and every day, in a thread that ends with the process."""

    def go_on() -> None:
        while True:
            try:
                forget(store, queue, days)
            except Exception:
                _log.exception("old history could not be forgotten; tried again in a day")
            time.sleep(_DAY)

    threading.Thread(target=go_on, name="history", daemon=True).start()
