"""Regions that are away, known to all jobs of all workers: since when, why, and when next asked."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from fedimg.config import Limits
from fedimg.store.store import Store
from fedimg.store.tables import outages

#: How long what was read is believed: every job asks before each of its calls.
_FRESH_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outage:
    """A further region that does not answer, or takes none of the account's calls.

    Times are in seconds since the epoch; `looks` is how often it was asked in vain. Without a `due`
    it is let be: the site does not publish there any more, and nobody asks it.
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
    """The regions that are away, in the database.

    They are asked again at intervals that grow from `wait_maximum` to `retry_after` seconds.
    """

    def __init__(self, store: Store, limits: Limits) -> None:
        self._engine = store.engine
        self._insert = store.insert
        self._limits = limits
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._seen: dict[str, Outage] = {}
        # When those that are let be are looked at again; at the start, whatever is away.
        self._let_be_until: float | None = None

    def away(self, region: str) -> Outage | None:
        """Return a region's outage, as it was known a second ago; None when it answers."""
        with self._lock:
            if time.monotonic() - self._read_at >= _FRESH_SECONDS:
                self._read()
            return self._seen.get(region)

    def all(self) -> list[Outage]:
        """Return every region that is away, by its name."""
        with self._lock:
            self._read()
            return list(self._seen.values())

    def begin(self, region: str, reason: str) -> None:
        """Note that a region is away, and tell it once; nothing, when that is known."""
        now = time.time()
        before = outages.c.back
        # One that was back for a moment alone is asked as seldom as before.
        flaps = before > now - self._limits.retry_after
        looks = sa.case((flaps, outages.c.looks), else_=0)
        values = {"since": now, "reason": reason, "due": now + self._pause(0), "back": None}
        with self._engine.begin() as connection:
            news = connection.execute(
                self._insert(outages)
                .values(region=region, looks=0, **values)
                .on_conflict_do_update(
                    index_elements=["region"],
                    set_={**values, "looks": looks},
                    where=before.is_not(None),
                )
                .returning(outages.c.looks)
            ).first()
        if news is not None:
            self._set(region, due=now + self._pause(int(news.looks)))
            _log.warning(
                "region %s is unavailable; jobs continue without it until it answers again: %s",
                region,
                reason,
            )
        self._forget_what_was_read()

    def postpone(self, outage: Outage, reason: str) -> None:
        """Note that a region was asked in vain; the next time comes later."""
        due = time.time() + self._pause(outage.looks + 1)
        self._set(outage.region, reason=reason, looks=outage.looks + 1, due=due)

    def end(self, outage: Outage) -> None:
        """Note that a region is back, and tell it."""
        self._set(outage.region, back=time.time())
        _log.warning(
            "region %s answers again after %d s; the jobs that wait for it continue",
            outage.region,
            time.time() - outage.since,
        )

    def let_be(self, outage: Outage, why: str) -> None:
        """Note that nothing is published in a region any more, and tell it once."""
        self._set(outage.region, due=None)
        _log.warning(
            "region %s is unavailable and is no longer waited for: %s; jobs end without it, and "
            "'fedimg cleanup' lists what may be left there",
            outage.region,
            why,
        )

    def look(
        self, probe: Callable[[str], str], unwanted: Callable[[Collection[str]], dict[str, str]]
    ) -> None:
        """Ask the regions again whose time has come.

        `probe` returns why a region is still away, nothing when it is back; `unwanted` which of
        some regions the site does not publish in any more, and why.
        """
        now, started = time.time(), self._let_be_until is None
        if self._let_be_until is None or now >= self._let_be_until:
            self._let_be_until = now + self._limits.retry_after
            due = [each for each in self.all() if each.due is None or started or each.due <= now]
        else:
            due = [each for each in self.all() if each.due is not None and each.due <= now]
        dropped = unwanted([each.region for each in due])
        for outage in due:
            if why := dropped.get(outage.region):
                if outage.due is not None:
                    self.let_be(outage, why)
            elif reason := probe(outage.region):
                self.postpone(outage, reason)
            else:
                self.end(outage)

    def _pause(self, looks: int) -> float:
        longest = max(self._limits.retry_after, self._limits.wait_maximum)
        return min(self._limits.wait_maximum * 2.0 ** min(looks, 32), longest)

    def _set(self, region: str, **values: object) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(outages).where(outages.c.region == region).values(**values)
            )
        self._forget_what_was_read()

    def _forget_what_was_read(self) -> None:
        with self._lock:
            self._read_at = 0.0

    def _read(self) -> None:
        with self._engine.connect() as connection:
            rows = connection.execute(
                sa.select(outages).where(outages.c.back.is_(None)).order_by(outages.c.region)
            ).all()
        self._seen = {
            row.region: Outage(row.region, row.since, row.reason, row.looks, row.due)
            for row in rows
        }
        self._read_at = time.monotonic()
