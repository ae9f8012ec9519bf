"""Apply the rules of retention: as requests to the worker, and by the worker itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable

from fedimg.aws.client.clients import Clients
from fedimg.aws.client.retrying import RetryingClient
from fedimg.aws.client.waiter import Waiter
from fedimg.config import Settings
from fedimg.jobs.holds import Holds
from fedimg.jobs.outages import Outages
from fedimg.lifecycle import observation
from fedimg.lifecycle.decisions import Decision, Verdict
from fedimg.store.changes import DELETE, DEPRECATE, DISABLE
from fedimg.store.prunings import Prunings, Request
from fedimg.store.store import Store
from fedimg.store.verifications import Verifications

_log = logging.getLogger(__name__)

#: Who asks for what the worker does by itself.
BY_ITSELF = "the worker, by [retention]"
_DAY = 86400.0
#: For how many seconds a region that fails is asked again.
_OUTAGE_SECONDS = 30.0
#: Interval at which the worker decides, in seconds; and at which it looks whether that is due.
_INTERVAL, _IDLE_SECONDS = 3600.0, 60.0
_WHAT = {Verdict.DEPRECATE: DEPRECATE, Verdict.DISABLE: DISABLE, Verdict.DELETE: DELETE}


def requests(made: Iterable[Decision]) -> list[Request]:
    """Return what a worker is asked for by some decisions."""
    return [
        Request(each.row, _WHAT[each.verdict], f"rule {each.rule}: {each.why}", each.deprecate_at)
        for each in made
        if each.verdict is not Verdict.KEEP
    ]


class WorkerRetention:
    """The worker's application of the rules, every hour.

    Without `retention.automatic` it only records how many public AMIs the rules would disable.
    """

    def __init__(
        self, settings: Settings, store: Store, clients: Clients, stop: threading.Event
    ) -> None:
        self._settings = settings
        self._store = store
        self._clients = clients
        self._stop = stop
        self._prunings = Prunings(store)
        self._holds = Holds(store)
        self._outages = Outages(store, settings.ec2.limits)

    def apply(self) -> float:
        """Decide, and ask for what is due; return the seconds until the next time."""
        retention = self._settings.retention
        if not retention.changes_anything:
            self._forget_room(set())
            return _IDLE_SECONDS
        regions = {row.region for row in self._store.amis()}
        self._forget_room(regions)
        found = observation.decisions(
            self._settings,
            self._store,
            self._client,
            {region for region in regions if not self._outages.away(region)},
        )
        for region, error in found.errors.items():
            _log.warning("the rules of retention decide nothing in %s: %s", region, error)
        self._record_room(found)
        if retention.automatic and not self._holds.current():
            self._ask(found)
        return _INTERVAL

    def _ask(self, found: observation.Decisions) -> None:
        left = self._settings.retention.most_a_day - self._prunings.count(
            BY_ITSELF, time.time() - _DAY
        )
        due = requests(found.made)
        # What was public first goes first.
        due.sort(key=lambda each: each.row.published_at or 0.0)
        asked = self._prunings.ask(due[: max(0, left)], by=BY_ITSELF)
        if asked:
            _log.info(
                "by the rules of retention, %d AMIs are deprecated, disabled or removed", len(asked)
            )
        if len(due) > left:
            _log.info(
                "%d AMIs wait, as retention.most_a_day = %d",
                len(due) - max(0, left),
                self._settings.retention.most_a_day,
            )

    def _record_room(self, found: observation.Decisions) -> None:
        verifications = Verifications(self._store)
        freed: dict[str, int] = {}
        for each in found.made:
            freed.setdefault(each.row.region, 0)
            # A private AMI takes no room of the quota of public ones.
            frees = each.verdict is Verdict.DISABLE and each.row.public
            freed[each.row.region] += frees
        for region, count in freed.items():
            verifications.record_would_free(region, count)

    def _forget_room(self, decided: Collection[str]) -> None:
        """Forget what the rules would free in regions about which they no longer decide."""
        verifications = Verifications(self._store)
        for each in verifications.all():
            if each.would_free is not None and each.region not in decided:
                verifications.record_would_free(each.region, None)

    def _client(self, region: str) -> RetryingClient:
        limits = self._settings.ec2.limits
        limits = limits.model_copy(update={"outage": min(limits.outage, _OUTAGE_SECONDS)})
        return RetryingClient(self._clients, region, Waiter(limits, self._stop))
