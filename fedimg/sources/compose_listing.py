"""Find the composes that a location's index page lists and that finished since a time.

fedimg.intake.catch_up finds missed composes, and fedimg.sources.composes reads a compose.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import unescape

from fedimg import config
from fedimg.sources import http
from fedimg.sources.composes import STATUS_LIMIT, text
from fedimg.sources.identifiers import COMPOSE_ID, FINISHED
from fedimg.sources.koji_listing import FinishedEntry, Page
from fedimg.sources.lookup import LookupRefused, SourceUnavailable

#: Largest index page that is read, in bytes: 10,000 composes, with a line of Apache's each.
_INDEX_LIMIT = 4 * 1024 * 1024
#: Longest duration of a compose, in seconds. Its id holds the day on which it began; the status of
#: composes that must have ended earlier is not read.
_LONGEST_COMPOSE = 14 * 86400.0
#: Number of composes without an answer after which the server counts as down.
_MOST_FAILURES = 3
#: Timeout for all requests of one listing, in seconds: each of many composes may take a minute.
_LISTING_SECONDS = 1800.0

#: A link's attributes. They hold no `<` or `>`, so that the search takes linear time.
_LINK = re.compile(r"<a\s([^<>]{0,2000})>", re.IGNORECASE)
_TARGET = re.compile(
    r"""(?:^|\s)href=(?:"([^"]{1,200})"|'([^']{1,200})'|([^\s"']{1,200})(?=\s|$))""", re.IGNORECASE
)

_log = logging.getLogger(__name__)


class ComposeListing:
    """The composes of one location, which has one list, named by the location's URL."""

    #: The kinds of the listed entries.
    kinds: Sequence[str] = ("compose",)

    def __init__(self, settings: config.Composes, location: str) -> None:
        self.names: Sequence[str] = (location,)
        self._location = location
        self._seconds = settings.timeout

    def now(self) -> float:
        """Return the time of the location's server, in seconds since the epoch.

        Raises SourceUnavailable, or LookupRefused when the location has no index page.
        """
        try:
            return http.seconds_of(self._index().date)
        except ValueError as error:
            raise SourceUnavailable(
                f"the answer of {self._location} has no valid Date header: {error}"
            ) from error

    def since(self, _name: str, after: float) -> Iterator[Page]:
        """List the composes that finished after a time of the server's clock, oldest first.

        A compose finished when its STATUS was last modified. Raises SourceUnavailable or
        LookupRefused.
        """
        finished: list[FinishedEntry] = []
        failures: list[SourceUnavailable] = []
        end = time.monotonic() + _LISTING_SECONDS
        for name in self._links():
            if _day(name) + _LONGEST_COMPOSE <= after:
                continue
            if time.monotonic() > end:
                failures.append(
                    SourceUnavailable(
                        f"timed out after {_LISTING_SECONDS:g} s reading the status of the "
                        f"composes at {self._location}/; {name} and older composes were not read"
                    )
                )
                break
            try:
                entry = self._finished(name)
            except SourceUnavailable as error:
                # A failure at one compose must not hide the others.
                failures.append(error)
                if len(failures) == _MOST_FAILURES:
                    break
                continue
            if entry and entry.completed > after:
                finished.append(entry)
        finished.sort(key=lambda entry: entry.completed)
        if failures:
            yield Page(finished, after)
            raise failures[0]
        yield Page(finished, max([after, *(entry.completed for entry in finished)]))

    def _links(self) -> list[str]:
        names = links(self._index().body.decode(errors="replace"))
        # The newest first: they are the most likely to have been missed.
        return sorted(names, key=lambda name: (_day(name), name), reverse=True)

    def _index(self) -> http.Answer:
        # Without the slash a server answers with a redirect, which is not followed.
        address = f"{self._location}/"
        try:
            return http.get(address, _INDEX_LIMIT, self._seconds)
        except http.NotFound as error:
            raise LookupRefused(
                f"no index page, without which composes that the bus lost cannot be found: {error}"
            ) from error
        except http.NoAnswer as error:
            raise SourceUnavailable(str(error)) from error

    def _finished(self, name: str) -> FinishedEntry | None:
        url = f"{self._location}/{name}/STATUS"
        try:
            answer = http.get(url, STATUS_LIMIT, self._seconds)
        except http.NotFound:
            # The compose has only just begun, or is being removed.
            return None
        except http.TooLong as error:
            _log.info("left out %s: %s", url, error)
            return None
        except http.NoAnswer as error:
            raise SourceUnavailable(str(error)) from error
        if text(answer) not in FINISHED:
            return None
        try:
            completed = http.seconds_of(answer.modified)
        except ValueError as error:
            _log.info("left out %s: its Last-Modified is invalid: %s", url, error)
            return None
        return FinishedEntry(f"compose:{name}", completed, name, owner="")


def links(page: str) -> set[str]:
    """Return the compose ids among the links of an index page; other links are ignored.

    It takes linear time for any page, which html.parser does not.
    """
    names = set()
    for tag in _LINK.finditer(page):
        if target := _TARGET.search(tag[1]):
            name = unescape(target[1] or target[2] or target[3] or "").removesuffix("/")
            if COMPOSE_ID.fullmatch(name) and _day(name):
                names.add(name)
    return names


def _day(name: str) -> float:
    """Return the start of the day in a compose's id, in seconds since the epoch; 0 without one."""
    match = COMPOSE_ID.fullmatch(name)
    try:
        day = datetime.strptime(match[1] if match else "", "%Y%m%d")
    except ValueError:
        return 0.0
    return day.replace(tzinfo=UTC).timestamp()
