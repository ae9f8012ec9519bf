"""Keep the outages of further regions, for all jobs of all workers, and when to probe them next.

A region is away while it is unavailable: it does not answer, or rejects every call of the account.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from fedimg.config import Limits
from fedimg.process.backoff import Backoff
from fedimg.process.wait_log import WaitLog
from fedimg.store.database import Database
from fedimg.store.tables import outages

#: How long the rows are cached, in seconds: every job checks before each of its calls.
_CACHE_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outage:
    """A further region that does not answer, or rejects every call of the account.

    Times are in seconds since the epoch; `looks` counts the failed probes. `due` is the time of
    the next one, or None when the site no longer publishes there: no job waits for the region.
    """

    region: str
    since: float
    reason: str
    looks: int
    due: float | None

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC)
        return f"{self.region} has been unavailable since {since:%Y-%m-%dT%H:%M:%SZ}: {self.reason}"


class Outages:
    """The outages, in the database.

    Regions are probed at intervals that grow from `wait_maximum` to `retry_after` seconds.
    """

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._cached: dict[str, Outage] = {}
        self._reminders = WaitLog(_log)
        # When abandoned regions are examined again; None at the start, when all are.
        self._examine_all_at: float | None = None

    def away(self, region: str) -> Outage | None:
        """Return a region's outage, as of at most one second ago, or None when it has none."""
        with self._lock:
            if time.monotonic() - self._read_at >= _CACHE_SECONDS:
                self._read()
            return self._cached.get(region)

    def all(self) -> list[Outage]:
        """Return the outages of all regions, ordered by region."""
        with self._lock:
            self._read()
            return list(self._cached.values())

    def begin(self, region: str, reason: str) -> None:
        """Record and log that a region is away, unless that is recorded already."""
        now = time.time()
        ended = outages.c.back
        # A region that was back for a short time is probed as seldom as before.
        flaps = ended > now - self._limits.retry_after
        looks = sa.case((flaps, outages.c.looks), else_=0)
        values = {"since": now, "reason": reason, "due": now + self._pause(0), "back": None}
        with self._database.engine.begin() as connection:
            begun = connection.execute(
                self._database.insert(outages)
                .values(region=region, looks=0, **values)
                .on_conflict_do_update(
                    index_elements=["region"],
                    set_={**values, "looks": looks},
                    where=ended.is_not(None),
                )
                .returning(outages.c.looks)
            ).first()
        if begun is not None:
            self._set(region, due=now + self._pause(int(begun.looks)))
            _log.warning(
                "region %s is unavailable; jobs continue without it until it answers again: %s",
                region,
                reason,
            )
        self._clear_cache()

    def postpone(self, outage: Outage, reason: str) -> None:
        """Record a failed probe; the next one comes after a longer pause."""
        due = time.time() + self._pause(outage.looks + 1)
        self._set(outage.region, reason=reason, looks=outage.looks + 1, due=due)

    def end(self, outage: Outage) -> None:
        """Record and log that a region answers again."""
        self._reminders.forget(outage.region)
        self._set(outage.region, back=time.time())
        _log.warning(
            "region %s answers again after %d s; the jobs that wait for it continue",
            outage.region,
            time.time() - outage.since,
        )

    def stop_waiting(self, outage: Outage, why: str) -> None:
        """Record and log that the site no longer publishes in a region, so nobody waits for it."""
        self._reminders.forget(outage.region)
        self._set(outage.region, due=None)
        _log.warning(
            "region %s is unavailable and is no longer waited for: %s; jobs end without it, and "
            "'fedimg cleanup' lists what may be left there",
            outage.region,
            why,
        )

    def probe_due(
        self, probe: Callable[[str], str], unwanted: Callable[[Collection[str]], dict[str, str]]
    ) -> None:
        """Probe the regions that are due, and record the results.

        `probe` returns why a region is still away, or an empty text when it answers. `unwanted`
        returns those of some regions in which the site no longer publishes, each with the reason.
        """
        now, first = time.time(), self._examine_all_at is None
        if self._examine_all_at is None or now >= self._examine_all_at:
            self._examine_all_at = now + self._limits.retry_after
            due = [each for each in self.all() if each.due is None or first or each.due <= now]
        else:
            due = [each for each in self.all() if each.due is not None and each.due <= now]
        for each in self.all():
            if each.due is not None:
                text = f"region {each}; jobs continue without it"
                self._reminders.remind(each.region, text, now - each.since, region=each.region)
        dropped = unwanted([each.region for each in due])
        for outage in due:
            if why := dropped.get(outage.region):
                if outage.due is not None:
                    self.stop_waiting(outage, why)
            elif reason := probe(outage.region):
                self.postpone(outage, reason)
            else:
                self.end(outage)

    def _pause(self, looks: int) -> float:
        longest = max(self._limits.retry_after, self._limits.wait_maximum)
        return Backoff(self._limits.wait_maximum, longest).pause(looks + 1)

    def _set(self, region: str, **values: object) -> None:
        with self._database.engine.begin() as connection:
            connection.execute(
                sa.update(outages).where(outages.c.region == region).values(**values)
            )
        self._clear_cache()

    def _clear_cache(self) -> None:
        with self._lock:
            self._read_at = 0.0

    def _read(self) -> None:
        with self._database.engine.connect() as connection:
            rows = connection.execute(
                sa.select(outages).where(outages.c.back.is_(None)).order_by(outages.c.region)
            ).all()
        self._cached = {
            row.region: Outage(row.region, row.since, row.reason, row.looks, row.due)
            for row in rows
        }
        self._read_at = time.monotonic()
