"""Render the pages about jobs; the templates escape every text, and no text is believed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.datastructures import QueryParams

from fedimg.store.rows import ENDED, LIVE, JobRow, waits_for
from fedimg.untrusted.quoting import one_line, plain
from fedimg.untrusted.times import parse_time

#: How many jobs a list has, and at most.
SHOWN_JOBS, MOST_JOBS = 50, 1000
#: Most digits of a number that is read.
_LIMIT_DIGITS = 9
#: How many of the last lines that a test instance printed are shown.
SHOWN_LINES = 100
#: Most characters of one shown text.
_LONGEST = 64 * 1024


class InvalidFilter(ValueError):
    """A query's filter that nothing can match; the text says which and why."""


@dataclass(frozen=True)
class Filter:
    """The jobs that are asked for: their states, or any; a time since which they changed.

    `since` is the text of a time or an age, and `begin` that time in seconds since the epoch.
    """

    states: Sequence[str] = ()
    since: str = ""
    begin: float = 0.0
    limit: int = SHOWN_JOBS

    @classmethod
    def of(cls, query: QueryParams) -> Filter:
        """Return the filter of a query. Raises InvalidFilter."""
        known = (*LIVE, *ENDED)
        states = tuple(dict.fromkeys(query.getlist("state")))
        for state in states:
            if state not in known:
                raise InvalidFilter(
                    f'unknown state "{one_line(state, 50)}"; known are {", ".join(known)}'
                )
        since = query.get("since", "").strip()
        try:
            begin = parse_time(since, time.time()) if since else 0.0
        except ValueError as error:
            raise InvalidFilter(f"since: {one_line(str(error), 200)}") from error
        limit = query.get("limit", "") or str(SHOWN_JOBS)
        short = limit.isascii() and limit.isdecimal() and len(limit) <= _LIMIT_DIGITS
        if not (short and 1 <= int(limit) <= MOST_JOBS):
            raise InvalidFilter(f"limit: give a number from 1 to {MOST_JOBS}")
        return cls(states, since, begin, int(limit))


def jobs_page(rows: Sequence[JobRow], count: int, asked: Filter) -> str:
    """Return the list of jobs; `count` is how many match the filter."""
    return _render(
        "jobs.html",
        title="Jobs",
        rows=rows,
        count=count,
        asked=asked,
        states=(*LIVE, *ENDED),
        most=MOST_JOBS,
        live=any(row.state in LIVE for row in rows),
    )


def job_page(row: JobRow) -> str:
    """Return the page of a job, with its regions and boot checks."""
    return _render("job.html", title=row.job, row=row, live=row.state in LIVE)


def error_page(status: int, text: str) -> str:
    """Return a page that tells why there is no other one."""
    return _render("error.html", title=HTTPStatus(status).phrase, text=text, live=False)


def _render(template: str, **values: object) -> str:
    return _templates.get_template(template).render(now=time.time(), **values)


def _shown(value: object) -> object:
    """Return a value that a template prints; a text without control characters and secrets."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return plain(value[-_LONGEST:])
    return value


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _end(text: str) -> str:
    """Return the last lines of a console."""
    return "\n".join(text.splitlines()[-SHOWN_LINES:])


_templates = Environment(
    loader=PackageLoader("fedimg.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_shown,
)
_templates.filters |= {"when": _when, "end": _end, "waits": waits_for, "line": one_line}
