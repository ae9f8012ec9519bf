"""What the composes' locations list as finished since a moment, by their own index pages.

fedimg.intake.catch_up finds what was missed, fedimg.sources.composes what a compose holds.
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

#: Most bytes that are read of an index page; one line of Apache's for each of 10,000 composes.
_INDEX_LIMIT = 4 * 1024 * 1024
#: How long before its end a compose may have begun, in seconds: its id tells the day of that, and
#: the status of older ones is not asked for.
_LONGEST = 14 * 86400.0
#: So many composes whose status the server does not tell, and it is down.
_PATIENCE = 3
#: One look at a location, in seconds: each of many composes may take its server a minute.
_LOOK_SECONDS = 1800.0

#: A link's attributes. None holds `<` or `>`, so that nothing of the page is looked at twice.
_LINK = re.compile(r"<a\s([^<>]{0,2000})>", re.IGNORECASE)
_TARGET = re.compile(
    r"""(?:^|\s)href=(?:"([^"]{1,200})"|'([^']{1,200})'|([^\s"']{1,200})(?=\s|$))""", re.IGNORECASE
)

_log = logging.getLogger(__name__)


class ComposeListing:
    """The composes of one location: the one list that it has is called by its address."""

    #: Of which entries it tells.
    kinds: Sequence[str] = ("compose",)

    def __init__(self, settings: config.Composes, location: str) -> None:
        self.names: Sequence[str] = (location,)
        self._location = location
        self._seconds = settings.timeout

    def now(self) -> float:
        """What time it is at the location's server, in seconds since the epoch.

        Raises found.SourceUnavailable, or found.Refused when it shows no index.
        """
        try:
            return http.seconds_of(self._index().date)
        except ValueError as error:
            raise SourceUnavailable(f"{self._location} tells no time: {error}") from error

    def since(self, name: str, after: float) -> Iterator[Page]:
        """The composes that finished after a moment of the server's clock, oldest first.

        One has finished when its STATUS was written last. Raises found.SourceUnavailable or
        found.Refused.
        """
        found: list[FinishedEntry] = []
        silent: list[SourceUnavailable] = []
        end = time.monotonic() + _LOOK_SECONDS
        for each in self._links():
            if _day(each) + _LONGEST <= after:
                continue
            if time.monotonic() > end:
                silent.append(
                    SourceUnavailable(
                        f"{self._location}/ lists more composes than its server tells the status "
                        f"of in {_LOOK_SECONDS:g} s; {each} and older ones were not looked at"
                    )
                )
                break
            try:
                one = self._finished(each)
            except SourceUnavailable as error:
                # One that the server fails at hides no other.
                silent.append(error)
                if len(silent) == _PATIENCE:
                    break
                continue
            if one and one.completed > after:
                found.append(one)
        found.sort(key=lambda one: one.completed)
        if silent:
            yield Page(found, after)
            raise silent[0]
        yield Page(found, max([after, *(one.completed for one in found)]))

    def _links(self) -> list[str]:
        found = links(self._index().body.decode(errors="replace"))
        # The newest first: they are the likeliest to have been missed.
        return sorted(found, key=lambda name: (_day(name), name), reverse=True)

    def _index(self) -> http.Answer:
        # Without the slash a server answers with a redirect, and none is followed.
        address = f"{self._location}/"
        try:
            return http.get(address, _INDEX_LIMIT, self._seconds)
        except http.NotFound as error:
            raise LookupRefused(
                f"no index page, so what the bus loses is not found: {error}"
            ) from error
        except http.NoAnswer as error:
            raise SourceUnavailable(str(error)) from error

    def _finished(self, name: str) -> FinishedEntry | None:
        place = f"{self._location}/{name}/STATUS"
        try:
            answer = http.get(place, STATUS_LIMIT, self._seconds)
        except http.NotFound:
            # It has only just begun, or is being removed.
            return None
        except http.TooLong as error:
            _log.info("%s is left out: %s", place, error)
            return None
        except http.NoAnswer as error:
            raise SourceUnavailable(str(error)) from error
        if text(answer) not in FINISHED:
            return None
        try:
            completed = http.seconds_of(answer.modified)
        except ValueError as error:
            _log.info("%s is left out: its time: %s", place, error)
            return None
        return FinishedEntry(f"compose:{name}", completed, name, owner="")


def links(page: str) -> set[str]:
    """Return the ids of composes among the links of an index page; all else counts for nothing.

    It takes time in proportion to the page, whatever is on it, which html.parser does not.
    """
    found = set()
    for tag in _LINK.finditer(page):
        if target := _TARGET.search(tag[1]):
            name = unescape(target[1] or target[2] or target[3] or "").removesuffix("/")
            if COMPOSE_ID.fullmatch(name) and _day(name):
                found.add(name)
    return found


def _day(name: str) -> float:
    """The beginning of the day that a compose's id tells, in seconds since the epoch; else 0."""
    match = COMPOSE_ID.fullmatch(name)
    try:
        day = datetime.strptime(match[1] if match else "", "%Y%m%d")
    except ValueError:
        return 0.0
    return day.replace(tzinfo=UTC).timestamp()
