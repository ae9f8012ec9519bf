"""What is forgotten of work long done, so that the database does not grow for ever.

Jobs, their AMIs and their checks stay, and so does what was announced when: only the queue's own
record of each step goes, and the texts of messages.
"""

from __future__ import annotations

import logging
import time

from fedimg.jobs.queue import JobQueue
from fedimg.store.store import Store

_DAY = 86400.0

_log = logging.getLogger(__name__)


def forget(store: Store, queue: JobQueue, days: float) -> None:
    """Forget what ended, and what the bus took, over `days` days ago."""
    before = time.time() - days * _DAY
    ended = queue.forget_ended(before)
    texts = store.forget_announced(before)
    if ended or texts:
        _log.info(
            "deleted the recorded steps of %d workflows and the bodies of %d messages, all more "
            "than %g days old",
            ended,
            texts,
            days,
        )
