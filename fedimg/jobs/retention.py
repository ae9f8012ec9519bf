"""Delete old recorded steps and message bodies, so that the database does not grow for ever.

Jobs, their AMIs and their boot checks stay, and so do the keys and times of announced messages.
"""

from __future__ import annotations

import logging
import time

from fedimg.jobs.queue import JobQueue
from fedimg.store.store import Store

_DAY = 86400.0

_log = logging.getLogger(__name__)


def forget(store: Store, queue: JobQueue, days: float) -> None:
    """Delete the steps of workflows that ended, and bodies of messages sent, `days` days ago."""
    before = time.time() - days * _DAY
    ended = queue.forget_ended(before)
    bodies = store.forget_announced(before)
    if ended or bodies:
        _log.info(
            "deleted the recorded steps of %d workflows and the bodies of %d messages, all more "
            "than %g days old",
            ended,
            bodies,
            days,
        )
