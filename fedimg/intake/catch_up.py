"""What finished while nobody listened: looked for at the start and at intervals.

The bus repeats nothing. What is found goes through the same door as what is announced,
fedimg.jobs.queue.JobQueue.take_in, and who made it is asked about each as about any other.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from fedimg import config
from fedimg.intake.deferred import DeferredEntries
from fedimg.intake.watermarks import Watermark, Watermarks
from fedimg.jobs.queue import Entry, JobQueue
from fedimg.sources.koji_listing import FinishedEntry, Page
from fedimg.sources.lookup import LookupRefused, SourceFails, SourceUnavailable
from fedimg.store.store import Store

_AGE = re.compile(r"(\d{1,6})([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 168}

_log = logging.getLogger(__name__)


class Listing(Protocol):
    """Lists of what finished at a Koji hub, or at a location of composes."""

    @property
    def names(self) -> Sequence[str]:
        """What they are called, in the order in which they are read."""

    @property
    def kinds(self) -> Sequence[str]:
        """Of which entries they tell."""

    def now(self) -> float:
        """What time it is there, in seconds since the epoch.

        Raises found.SourceUnavailable or Refused.
        """

    def since(self, name: str, after: float) -> Iterator[Page]:
        """What finished after a moment of that clock, of the list `name`, oldest first.

        Raises found.SourceUnavailable, SourceFails or Refused.
        """


class CatchUp:
    """Stores what finished since the last look.

    A list's mark is moved behind what is stored, a page at a time: after a crash the next look
    goes on from there. Only the lists' own clock counts. Each look begins `overlap` before the
    mark, as Koji gives a build the time at which its import began, and shows it when that ends.
    """

    def __init__(
        self,
        store: Store,
        jobs: JobQueue,
        listing: Listing,
        settings: config.CatchUp,
        stop: threading.Event,
    ) -> None:
        self._jobs = jobs
        self._listing = listing
        self._settings = settings
        self._stop = stop
        self._watermarks = Watermarks(store)
        self._deferred = DeferredEntries(store)

    def look(self) -> bool:
        """Store what was missed, of every list; False when it has to be done again soon."""
        try:
            now = self._listing.now()
        except LookupRefused as error:
            self._failed(self._listing.names, error)
            return True
        except SourceUnavailable as error:
            self._failed(self._listing.names, error)
            return False
        self._deferred.wake(self._listing.kinds)
        # All before the first is read: what happens meanwhile must not have the others begin later.
        begun = {name: self._begin(name, now) for name in self._listing.names}
        whole = True
        for number, (name, watermark) in enumerate(begun.items()):
            try:
                read = self._read(name, watermark, now)
            except (LookupRefused, SourceFails) as error:
                # Of this list alone: its turn comes again with the others'.
                self._failed([name], error)
            except SourceUnavailable as error:
                self._failed(self._listing.names[number:], error)
                return False
            else:
                if self._stop.is_set():
                    return False
                if read:
                    self._watermarks.looked([name])
                whole &= read
        return whole

    def _begin(self, name: str, now: float) -> Watermark:
        """The mark of a list, set `look_back` ago when it answers for the first time."""
        watermark = self._watermarks.get(name)
        # A beginning that has not come yet was told by a clock that was wrong.
        if watermark is None or watermark.begin > now:
            begin = now - self._settings.look_back
            watermark = Watermark(begin, begin)
            self._watermarks.set(name, watermark)
        return watermark

    def _read(self, name: str, watermark: Watermark, now: float) -> bool:
        """Store what was missed of one list; whether that was all of it."""
        after = max(watermark.begin, min(watermark.until, now) - self._settings.overlap)
        stored = self._watermarks.stored(name)
        for page in self._listing.since(name, after):
            taken = []
            for one in page.found:
                if self._stop.is_set():
                    return False
                if stored.get(one.entry) != one.completed and self._take_in(one):
                    taken.append(one)
            # A time that has not come yet, as a builder's clock may tell, moves nothing.
            watermark = Watermark(
                watermark.begin, max(min(watermark.until, now), min(page.until, now))
            )
            self._watermarks.set(name, watermark, taken)
            if page.more:
                return False
        self._watermarks.forget(name, after)
        return True

    def _take_in(self, one: FinishedEntry) -> bool:
        """Store an entry; whether it needs no further look.

        One that waits is asked for already, perhaps at this moment, and perhaps a moment before
        the hub sees that it is finished: the next look will tell.
        """
        # By the list's own word it was missed, however long nobody looked.
        before = self._jobs.take_in(one.entry, any_age=True)
        if before in (Entry.NEW, Entry.EMPTY):
            _log.info(
                "%s (%s by %s), finished at %s, was not announced and is queued now",
                one.entry,
                one.name,
                one.owner,
                _text(one.completed),
            )
        return before is not Entry.QUEUED

    def _failed(self, names: Sequence[str], error: Exception) -> None:
        _log.warning("cannot list missed entries of %s: %s", ", ".join(names), error)
        self._watermarks.looked(names, str(error))


@dataclass(frozen=True)
class Replayed:
    """Something that finished, what had become of it before, and whether it is stored now."""

    finished: FinishedEntry
    before: Entry
    stored: bool


def replay(listing: Listing, jobs: JobQueue, since: float, *, dry_run: bool) -> Iterator[Replayed]:
    """Store all that finished since a moment of their clock and has no job; each as it is done.

    What came to nothing before is asked for again: the site's policy may be another by now.
    Raises found.SourceUnavailable or Refused.
    """
    for name in listing.names:
        for page in listing.since(name, since):
            for one in page.found:
                before = jobs.known(one.entry) if dry_run else jobs.take_in(one.entry, any_age=True)
                missed = before in (Entry.NEW, Entry.EMPTY)
                yield Replayed(one, before, stored=missed and not dry_run)
            if page.more:
                raise SourceUnavailable(
                    f"more entries of {name} finished since then than one request lists; continue "
                    f"with --since {_text(page.until)}"
                )


def moment(text: str, now: float) -> float:
    """The time that a person means, in seconds since the epoch: an ISO-8601 one, or an age.

    An age is counted back from `now`: 36h, 7d or 2w. A time without a zone is UTC. Raises
    ValueError for what is neither, or lies ahead.
    """
    if age := _AGE.fullmatch(text):
        # To a hub, 0 is no time at all.
        return max(1.0, now - int(age[1]) * _HOURS[age[2]] * 3600)
    try:
        when = datetime.fromisoformat(text)
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f'"{text}" is not a time; write 2026-11-23, 2026-11-23T18:30Z, or an age such as 36h '
            "or 7d"
        ) from error
    if seconds > now:
        raise ValueError(f"{text} is in the future by the hub's clock")
    return seconds


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
