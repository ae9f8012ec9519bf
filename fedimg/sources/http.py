"""Read small files over HTTP, with limits on time and size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

import requests
from urllib3.exceptions import HTTPError

from fedimg import __version__
from fedimg.exceptions import exhausted
from fedimg.sources import deadline
from fedimg.untrusted.failures import reason
from fedimg.untrusted.quoting import QuotedError, one_line, quoted

#: Headers of every request. A compressed answer would circumvent the size limit.
HEADERS = {"User-Agent": f"fedimg/{__version__}", "Accept-Encoding": "identity"}

#: Size above which answers are parsed one at a time, by one thread, in bytes. Parsing can take
#: twelve times the answer's length of memory, twenty threads may parse at once, and the C library
#: keeps the memory that each thread has used.
_LARGE = 1024 * 1024
_PARSER = ThreadPoolExecutor(1, thread_name_prefix="parser")

T = TypeVar("T")

#: Most characters of a date that are parsed; valid dates have some thirty.
_LONGEST_DATE = 100


class NoAnswer(QuotedError):
    """The server did not answer, or not readably; a later try may succeed."""


class TooLong(NoAnswer):
    """The answer is larger than the limit."""


class NotFound(QuotedError):
    """The server answers that it has no such file, or does not permit reading it."""


@dataclass(frozen=True)
class Answer:
    """A file's bytes, and the headers Last-Modified and Date as the server sent them."""

    body: bytes
    modified: str | None
    date: str | None


@contextmanager
def limited_session(url: str, seconds: float) -> Iterator[requests.Session]:
    """Yield a session in which the server of `url` has `seconds` for its whole answer.

    Errors of requests and urllib3 become NoAnswer.
    """
    try:
        with deadline.session(seconds) as session:
            yield session
    except deadline.Overdue as error:
        raise NoAnswer(
            f"timed out after {seconds:g} s waiting for the whole answer of {url}"
        ) from error
    except (requests.RequestException, HTTPError) as error:
        raise NoAnswer(f"{url} does not answer: {reason(error)}") from error
    except ValueError as error:
        # requests parses the target of a redirect even if it does not follow it.
        raise NoAnswer(f"{url} answers with a redirect to something that is not a URL") from error


def body(response: requests.Response, limit: int) -> bytes:
    """Return the body of a streamed answer of at most `limit` bytes. Raises TooLong."""
    read = bytearray()
    # Read what has arrived: the iterator of requests waits until a piece is full.
    while piece := response.raw.read1(65536):
        read += piece
        if len(read) > limit:
            raise TooLong(
                f"the answer of {response.url} has more than {limit} bytes, the most that are read"
            )
    return bytes(read)


def parsed(answer: bytes, parse: Callable[[bytes], T]) -> T:
    """Return `parse(answer)`, or raise its error; large answers are parsed one at a time."""
    if len(answer) <= _LARGE:
        return parse(answer)
    return _PARSER.submit(parse, answer).result()


def get(url: str, limit: int, seconds: float) -> Answer:
    """Read the file at `url`, of at most `limit` bytes, within `seconds`; follow no redirects.

    Raises NotFound, NoAnswer.
    """
    with (
        limited_session(url, seconds) as session,
        session.get(
            url, headers=HEADERS, timeout=seconds, stream=True, allow_redirects=False
        ) as response,
    ):
        _check_status(response)
        return Answer(
            body(response, limit),
            response.headers.get("Last-Modified"),
            response.headers.get("Date"),
        )


def seconds_of(date: str | None) -> float:
    """Convert a Date or Last-Modified header to seconds since the epoch. Raises ValueError."""
    try:
        return parsedate_to_datetime((date or "")[:_LONGEST_DATE]).timestamp()
    except Exception as error:
        # The library raises any kind of error for an invalid date.
        if exhausted(error):
            raise
        raise ValueError(f"{quoted(date, 80)} is not a date") from error


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    if status == requests.codes.ok:
        return
    text = f"{response.url} answers {status} {one_line(response.reason or '')}"
    # A redirect, too: it leads away from the URL that the configuration trusts.
    if status < requests.codes.server_error and status not in (408, 429):
        raise NotFound(text)
    raise NoAnswer(text)
