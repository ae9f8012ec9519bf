"""Queue the changes of AMIs that are due, except where a region is away."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from fedimg.config import Settings
from fedimg.jobs.outages import Outages
from fedimg.jobs.queue import ChangeTry, JobQueue
from fedimg.lifecycle.change_workflow import postpone
from fedimg.process.wait_log import WaitLog
from fedimg.store.changes import Change, PendingChanges
from fedimg.store.store import Store

_log = logging.getLogger(__name__)


class DueChanges:
    """The changes of all kinds, as the leading worker starts them.

    `pending` tells whether any may be due.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        queue: JobQueue,
        pending: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._pending = pending
        self._changes = PendingChanges(store)
        self._outages = Outages(store, settings.ec2.limits)
        self._waits = WaitLog(_log)
        # The regions whose changes waited the last time.
        self._waited: set[str] = set()

    def begin(self) -> None:
        """Queue the changes that are due; those of regions that are away wait, and are logged."""
        if not self._waited and not self._pending():
            return
        waiting: Counter[str] = Counter()
        for change in self._changes.due():
            if self._outages.away(change.region):
                waiting[change.region] += 1
            else:
                self._begin(change)
        for region, count in sorted(waiting.items()):
            text = f"{count} changes of AMIs wait, as {self._outages.away(region)}"
            self._waits.waiting(region, text, region=region)
        for region in sorted(self._waited - set(waiting)):
            text = f"no change of AMIs waits for {region} any more"
            self._waits.over(region, text, region=region)
        self._waited = set(waiting)

    def _begin(self, change: Change) -> None:
        state = self._queue.change(change.what, change.job, change.region, change.at, change.tries)
        if state is ChangeTry.ENDED:
            # Its error is in the log; the change itself is still to be made.
            problem = "the worker failed at it; its log has the error"
            postpone(self._changes, self._settings, change, problem)
        elif state is ChangeTry.QUEUED:
            self._changes.queued(change)
