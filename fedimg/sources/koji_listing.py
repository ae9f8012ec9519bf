"""Find image builds and scratch image tasks that a Koji hub lists as finished since a time.

fedimg.intake.catch_up finds missed entries, and fedimg.intake.image_selection the
images to publish.
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
from fedimg.untrusted.quoting import one_line, quoted

#: A hub has a list of builds, and a list of tasks for each method: listTasks takes one method.
BUILDS = "builds"
LISTS = (BUILDS, *METHODS)

#: Rows of one request. A task's row holds the task's arguments, which may be long.
PAGE = 100
#: Most pages of one listing; far more than Koji finishes within any outage.
_MOST_PAGES = 1000
#: Seconds by which the next page begins before the last row's time, as several rows may have it.
_OVERLAP = 0.01
#: Later than any valid time, in seconds since the epoch: the year 3058.
_LATEST = 2.0**35

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedEntry:
    """A finished build, scratch task or compose; `completed` is in seconds since the epoch.

    `name` is a build's name-version-release, a task's method, or a compose's id.
    """

    entry: str
    completed: float
    name: str
    owner: str


@dataclass(frozen=True)
class Page:
    """A page of a list: the finished entries, and the time up to which the list has been read.

    `more` is set on the last page if the list was not read to its end.
    """

    found: list[FinishedEntry]
    until: float
    more: bool = False


class KojiListing:
    """A hub's lists of finished builds and tasks, which are read anonymously."""

    names = LISTS
    #: The kinds of the listed entries.
    kinds: Sequence[str] = ("task", "build")

    def __init__(self, settings: Koji) -> None:
        self._hub = settings.hub
        self._client = XMLRPCClient(settings.hub, settings.timeout)

    def now(self) -> float:
        """Return the hub's time, in seconds since the epoch. Raises KojiUnavailable."""
        try:
            return self._client.clock()
        except xmlrpc.client.Fault as fault:
            raise KojiUnavailable(
                f"{self._hub} answers with a fault: {one_line(str(fault.faultString))}"
            ) from fault
        except NoAnswer as error:
            raise KojiUnavailable(str(error)) from error

    def since(self, name: str, after: float) -> Iterator[Page]:
        """List the entries of list `name` that finished after a time of the hub's clock, oldest
        first.

        A page begins at the time at which the last one ended, not at an offset, because the list
        may change while it is read. At most 100,000 rows are read. Raises KojiUnavailable or
        KojiRefused.
        """
        listed: set[int] = set()
        until, start, offset = after, after, 0
        last: list[Any] = []
        for number in range(_MOST_PAGES):
            rows, full = self._page(name, start, offset)
            if rows and offset and rows == last:
                raise KojiUnavailable(f"{self._hub} lists the same page of {name} again and again")
            last = rows
            fresh = []
            for row in rows:
                parsed = _row(name, row)
                if parsed is None or parsed.completed <= after:
                    _log.info("left out an invalid row of %s: %s", name, quoted(row, 200))
                elif parsed.number not in listed:
                    listed.add(parsed.number)
                    fresh.append(parsed)
            until = max([until, *(each.completed for each in fresh)])
            yield Page(
                [each.finished for each in fresh if each.finished],
                until,
                more=full and number == _MOST_PAGES - 1,
            )
            if not full:
                return
            if fresh and until - _OVERLAP > start:
                start, offset = until - _OVERLAP, 0
            else:
                offset += len(rows)

    def _page(self, name: str, after: float, offset: int) -> tuple[list[Any], bool]:
        """Return some rows, and whether there may be more.

        An _Unlisted stands for a row that the hub fails to send.
        """
        limit = PAGE
        while True:
            query = {"limit": limit, "offset": offset}
            try:
                rows = self._call(name, after, query)
            except (KojiFails, KojiRefused) as error:
                # One row may be to blame, whose owner chose its content: it may exceed our size
                # limit, or make the hub fail.
                if limit > 1:
                    limit = max(1, limit // 4)
                    continue
                if not self._is_unlistable(name, after, query):
                    raise
                _log.warning("left out a row of %s that the hub fails to list: %s", name, error)
                return [_Unlisted()], True
            if not isinstance(rows, list):
                raise KojiUnavailable(
                    f"{self._hub} returned something other than a list of {name}: "
                    f"{quoted(rows, 80)}"
                )
            return rows, len(rows) >= limit

    def _is_unlistable(self, name: str, after: float, query: dict[str, Any]) -> bool:
        """Return whether the hub counts the row, but fails once more to list it."""
        try:
            if self._call(name, after, query | {"countOnly": True}) != 1:
                return False
        except (KojiFails, KojiRefused):
            return False
        try:
            self._call(name, after, query)
        except (KojiFails, KojiRefused):
            return True
        return False

    def _call(self, name: str, after: float, query: dict[str, Any]) -> Any:
        """Request rows of a list. Raises KojiUnavailable, of which KojiFails is one, or
        KojiRefused.
        """
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
    """Stands for a row that the hub fails to list. No two are equal."""


@dataclass(frozen=True)
class _Row:
    """A valid row; `finished` is None when the row's build or task is not to be announced."""

    number: int
    completed: float
    finished: FinishedEntry | None


def _row(name: str, row: Any) -> _Row | None:
    if not isinstance(row, dict):
        return None
    prefix, number = ("build", row.get("build_id")) if name == BUILDS else ("task", row.get("id"))
    if type(number) is not int or not 0 < number <= LARGEST_ID:
        return None
    completed: Any = row.get("completion_ts")
    # NaN fails the comparison, too.
    if type(completed) not in (int, float) or not 0 < completed < _LATEST:
        return None
    # Of a build that is not scratch, the build is announced, not its task; drafts are not
    # announced.
    if row.get("draft") is True or (prefix == "task" and not is_scratch(row.get("request"))):
        return _Row(number, completed, None)
    return _Row(
        number,
        completed,
        FinishedEntry(
            entry=f"{prefix}:{number}",
            completed=completed,
            name=_printable(row.get("nvr") if prefix == "build" else name),
            owner=_printable(row.get("owner_name")),
        ),
    )


def _printable(value: Any) -> str:
    """Return the hub's text with each character that is not printable replaced by a question
    mark.
    """
    return "".join(each if each.isprintable() else "?" for each in str(value)[:200])
