"""What a Koji hub lists as finished since a moment: image builds, and scratch tasks that make some.

fedimg.intake.catch_up finds what was missed, fedimg.intake.resolve what is published of it.
"""

from __future__ import annotations

import logging
import xmlrpc.client
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fedimg.config import Koji
from fedimg.sources.http import NoAnswer
from fedimg.sources.identifiers import LARGEST_ID, METHODS
from fedimg.sources.koji import (
    BUILD_COMPLETE,
    TASK_CLOSED,
    KojiFails,
    KojiRefused,
    KojiUnavailable,
    is_scratch,
    no_answer,
    refusal,
)
from fedimg.sources.xmlrpc import XMLRPCClient
from fedimg.untrusted.quoting import one_line

#: A hub has one list of builds, and one of tasks for each method: listTasks takes one at a time.
BUILDS = "builds"
LISTS = (BUILDS, *METHODS)

#: Rows asked for at once. A task's row holds its request, which its owner may have made long.
PAGE = 100
#: What is listed in one go; far more than Koji finishes within any outage.
_MOST_PAGES = 1000
#: The next page begins this much before the last row's time, in seconds, as several may have it.
_STEP = 0.01
#: No time that a hub can mean, in seconds since the epoch: the year 3058.
_LATEST = 2.0**35

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedEntry:
    """A build or scratch task by the hub's word; `completed` is in seconds since the epoch.

    `name` is a build's name-version-release, and a task's method.
    """

    entry: str
    completed: float
    name: str
    owner: str


@dataclass(frozen=True)
class Page:
    """A part of a list: what may have made images, and up to when everything was listed by now.

    The last page that is read of a list that goes on says `more`.
    """

    found: list[FinishedEntry]
    until: float
    more: bool = False


class KojiListing:
    """A hub's lists of what finished, read anonymously."""

    names = LISTS
    #: Of which entries they tell.
    kinds: Sequence[str] = ("task", "build")

    def __init__(self, settings: Koji) -> None:
        self._hub = settings.hub
        self._client = XMLRPCClient(settings.hub, settings.timeout)

    def now(self) -> float:
        """What time it is at the hub, in seconds since the epoch. Raises KojiUnavailable."""
        try:
            return self._client.clock()
        except xmlrpc.client.Fault as fault:
            raise KojiUnavailable(
                f"{self._hub} answers with {one_line(str(fault.faultString))}"
            ) from fault
        except NoAnswer as error:
            raise KojiUnavailable(str(error)) from error

    def since(self, name: str, after: float) -> Iterator[Page]:
        """What finished after a moment of the hub's clock, of the list `name`, oldest first.

        The list may change while it is read, so a page begins at the time where the last one
        ended, not at the number: what comes in between, or goes, moves nothing out of sight. At
        most 100,000 rows are read. Raises KojiUnavailable or KojiRefused.
        """
        listed: set[int] = set()
        until, start, offset = after, after, 0
        last: list[Any] = []
        for number in range(_MOST_PAGES):
            rows, full = self._page(name, start, offset)
            if rows and offset and rows == last:
                raise KojiUnavailable(f"{self._hub} lists the same {name} again and again")
            last = rows
            fresh = []
            for row in rows:
                one = _row(name, row)
                if one is None or one.completed <= after:
                    _log.info("a row of %s is left out: %.200r", name, row)
                elif one.number not in listed:
                    listed.add(one.number)
                    fresh.append(one)
            until = max([until, *(one.completed for one in fresh)])
            yield Page(
                [one.finished for one in fresh if one.finished],
                until,
                more=full and number == _MOST_PAGES - 1,
            )
            if not full:
                return
            if fresh and until - _STEP > start:
                start, offset = until - _STEP, 0
            else:
                offset += len(rows)

    def _page(self, name: str, after: float, offset: int) -> tuple[list[Any], bool]:
        """Some rows, and whether there may be more.

        A row that the hub cannot put into words is an _Unlisted one.
        """
        limit = PAGE
        while True:
            query = {"limit": limit, "offset": offset}
            try:
                rows = self._ask(name, after, query)
            except (KojiFails, KojiRefused) as error:
                # One row may be to blame: others say what is in it, and it may be longer than is
                # read here, or nothing that the hub can put into words.
                if limit > 1:
                    limit = max(1, limit // 4)
                    continue
                if not self._is_unspeakable(name, after, query):
                    raise
                _log.warning("one of %s is left out, as the hub cannot name it: %s", name, error)
                return [_Unlisted()], True
            if not isinstance(rows, list):
                raise KojiUnavailable(f"{self._hub} lists {name} as {rows!r:.80}")
            return rows, len(rows) >= limit

    def _is_unspeakable(self, name: str, after: float, query: dict[str, Any]) -> bool:
        """Whether the hub counts a row, and is well, and fails to list it once more."""
        try:
            if self._ask(name, after, query | {"countOnly": True}) != 1:
                return False
        except (KojiFails, KojiRefused):
            return False
        try:
            self._ask(name, after, query)
        except (KojiFails, KojiRefused):
            return True
        return False

    def _ask(self, name: str, after: float, query: dict[str, Any]) -> Any:
        """Raises KojiUnavailable, KojiFails among it, or KojiRefused."""
        try:
            if name == BUILDS:
                return self._client.call(
                    "listBuilds",
                    {
                        "type": "image",
                        "state": BUILD_COMPLETE,
                        "completeAfter": after,
                        "queryOpts": query | {"order": "completion_time,build_id"},
                        # Koji's way to pass keyword arguments.
                        "__starstar": True,
                    },
                )
            return self._client.call(
                "listTasks",
                {
                    "method": name,
                    "state": [TASK_CLOSED],
                    # Only parents are announced; the hub has an index of them.
                    "parent": None,
                    "completeAfter": after,
                    "decode": True,
                },
                query | {"order": "completion_time,id"},
            )
        except xmlrpc.client.Fault as fault:
            raise refusal(
                self._hub, f"the list of {name}", fault.faultCode, fault.faultString
            ) from fault
        except NoAnswer as error:
            raise no_answer(error) from error


class _Unlisted:
    """In place of a row of which the hub can say nothing. No two are equal."""


@dataclass(frozen=True)
class _Row:
    """A row of which the hub said what it always says; `finished` when it may be announced."""

    number: int
    completed: float
    finished: FinishedEntry | None


def _row(name: str, row: Any) -> _Row | None:
    if not isinstance(row, dict):
        return None
    kind, number = ("build", row.get("build_id")) if name == BUILDS else ("task", row.get("id"))
    if type(number) is not int or not 0 < number <= LARGEST_ID:
        return None
    completed: Any = row.get("completion_ts")
    # Not a number is less than nothing.
    if type(completed) not in (int, float) or not 0 < completed < _LATEST:
        return None
    # The task of a build that is not scratch is never announced: its build is. Drafts are neither.
    if row.get("draft") is True or (kind == "task" and not is_scratch(row.get("request"))):
        return _Row(number, completed, None)
    return _Row(
        number,
        completed,
        FinishedEntry(
            entry=f"{kind}:{number}",
            completed=completed,
            name=_printable(row.get("nvr") if kind == "build" else name),
            owner=_printable(row.get("owner_name")),
        ),
    )


def _printable(value: Any) -> str:
    """What a terminal may be shown of the hub's word."""
    return "".join(each if each.isprintable() else "?" for each in str(value)[:200])
