"""Find and queue entries whose announcements were missed, at the start and at intervals.

The bus repeats no message. A missed entry is queued as an announced one is, by
fedimg.jobs.queue.JobQueue.enqueue_entry, and the worker looks it up at its source like any other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from fedimg import config
from fedimg.intake.deferred import DeferredEntries
from fedimg.intake.watermarks import Watermark, Watermarks
from fedimg.jobs.queue import ASKED_AGAIN, EntryState, JobQueue
from fedimg.sources.koji_listing import FinishedEntry, Page
from fedimg.sources.lookup import LookupRefused, SourceFails, SourceUnavailable
from fedimg.store.store import Store

_log = logging.getLogger(__name__)


class Listing(Protocol):
    """The lists of finished entries at a Koji hub or at a location of composes."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the lists, in the order in which they are read."""

    @property
    def kinds(self) -> Sequence[str]:
        """The kinds of entries in the lists: `task`, `build` or `compose`."""

    def now(self) -> float:
        """Return the time by the source's clock, in seconds since the epoch.

        Raises SourceUnavailable or LookupRefused.
        """

    def since(self, name: str, after: float) -> Iterator[Page]:
        """Yield the entries of the list `name` that finished after a time, oldest first.

        `after` is a time of the source's clock, in seconds since the epoch. Raises
        SourceUnavailable, SourceFails or LookupRefused.
        """


class CatchUp:
    """Queues the entries that finished since the lists were last read.

    A list's watermark moves past the queued entries a page at a time: after a crash, reading
    continues from there. All times are of the source's clock. Reading begins `overlap` seconds
    before the watermark, because Koji lists a build only when its import ends, under the time at
    which the import began.
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

    def read_listing(self) -> bool:
        """Queue the missed entries of every list; return False when a list has to be read soon."""
        try:
            now = self._listing.now()
        except LookupRefused as error:
            self._failed(self._listing.names, error)
            return True
        except SourceUnavailable as error:
            self._failed(self._listing.names, error)
            return False
        self._deferred.wake(self._listing.kinds)
        # Every list gets its watermark before the first is read: a failure while one is read must
        # not give the others later watermarks.
        watermarks = {name: self._begin(name, now) for name in self._listing.names}
        complete = True
        for number, (name, watermark) in enumerate(watermarks.items()):
            try:
                read_to_end = self._read(name, watermark, now)
            except (LookupRefused, SourceFails) as error:
                # Only this list fails: it is read again at the next interval, with the others.
                self._failed([name], error)
            except SourceUnavailable as error:
                self._failed(self._listing.names[number:], error)
                return False
            else:
                if self._stop.is_set():
                    return False
                if read_to_end:
                    self._watermarks.record_reading([name])
                complete &= read_to_end
        return complete

    def _begin(self, name: str, now: float) -> Watermark:
        """Return the watermark of a list; the first one is `look_back` seconds before `now`."""
        watermark = self._watermarks.get(name)
        # A beginning in the future comes from a time when the source's clock was wrong.
        if watermark is None or watermark.begin > now:
            begin = now - self._settings.look_back
            watermark = Watermark(begin, begin)
            self._watermarks.set(name, watermark)
        return watermark

    def _read(self, name: str, watermark: Watermark, now: float) -> bool:
        """Queue the missed entries of one list; return whether the list was read to its end."""
        after = max(watermark.begin, min(watermark.until, now) - self._settings.overlap)
        stored = self._watermarks.stored(name)
        for page in self._listing.since(name, after):
            settled = []
            for finished in page.found:
                if self._stop.is_set():
                    return False
                if stored.get(finished.entry) != finished.completed and self._enqueue(finished):
                    settled.append(finished)
            # A builder's clock may give a time in the future, which must not move the watermark.
            watermark = Watermark(
                watermark.begin, max(min(watermark.until, now), min(page.until, now))
            )
            self._watermarks.set(name, watermark, settled)
            if page.more:
                return False
        self._watermarks.forget(name, after)
        return True

    def _enqueue(self, finished: FinishedEntry) -> bool:
        """Queue an entry; return whether it need not be examined again.

        An entry that was queued already may be looked up a moment before the hub says that it is
        finished, and be dropped: it is examined again when the list is next read.
        """
        # The source itself lists the entry, so the age limit, which is against replayed messages,
        # does not apply.
        before = self._jobs.enqueue_entry(finished.entry, any_age=True)
        if before in (EntryState.NEW, EntryState.EMPTY):
            _log.info(
                "%s (%s by %s), finished at %s, was not announced and is queued now",
                finished.entry,
                finished.name,
                finished.owner,
                _text(finished.completed),
            )
        return before is not EntryState.QUEUED

    def _failed(self, names: Sequence[str], error: Exception) -> None:
        _log.warning("cannot list missed entries of %s: %s", ", ".join(names), error)
        self._watermarks.record_reading(names, str(error))


@dataclass(frozen=True)
class Replayed:
    """An entry that finished, its state before the replay, and whether the replay queued it."""

    finished: FinishedEntry
    before: EntryState
    stored: bool


def replay(listing: Listing, jobs: JobQueue, since: float, *, dry_run: bool) -> Iterator[Replayed]:
    """Queue the entries that finished since a time and have no job; yield each as it is queued.

    `since` is a time of the source's clock, in seconds since the epoch. An entry that failed, or of
    which images were left out before, is queued again, as the site's policy may have changed.
    Raises SourceUnavailable, SourceFails or LookupRefused.
    """
    for name in listing.names:
        for page in listing.since(name, since):
            for finished in page.found:
                entry = finished.entry
                before = jobs.known(entry) if dry_run else jobs.enqueue_entry(entry, any_age=True)
                missed = before in ASKED_AGAIN
                yield Replayed(finished, before, stored=missed and not dry_run)
            if page.more:
                raise SourceUnavailable(
                    f"more entries of {name} finished since then than one request lists; continue "
                    f"with --since {_text(page.until)}"
                )


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
