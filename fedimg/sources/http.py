"""Reading small files over HTTP, with limits on time and size; what they say is the caller's."""

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
from fedimg.untrusted.quoting import QuotedError, one_line, reason

#: What is sent with every request. A compressed answer would get past the size limit.
HEADERS = {"User-Agent": f"fedimg/{__version__}", "Accept-Encoding": "identity"}

#: In bytes. Parsing an answer can take a dozen times its length of memory, and twenty threads may
#: have an answer each. One thread parses the larger ones, one after the other: the C library keeps
#: for each thread the memory that it has once used.
_LARGE = 1024 * 1024
_PARSER = ThreadPoolExecutor(1, thread_name_prefix="parser")

T = TypeVar("T")

#: In characters; those that the standards name have some thirty.
_LONGEST_DATE = 100


class NoAnswer(QuotedError):
    """The server could not be asked, or its answer could not be read; later it may be."""


class TooLong(NoAnswer):
    """The answer has more bytes than are read."""


class NotFound(QuotedError):
    """The server answers, and has no such file, or does not show it."""


@dataclass(frozen=True)
class Answer:
    """A file's bytes, and its Last-Modified and the answer's Date as the server sent them."""

    body: bytes
    modified: str | None
    date: str | None


@contextmanager
def asking(url: str, seconds: float) -> Iterator[requests.Session]:
    """A session in which the server of `url` has so many seconds, for its whole answer.

    What requests and urllib3 raise becomes NoAnswer.
    """
    try:
        with deadline.session(seconds) as session:
            yield session
    except deadline.Overdue as error:
        raise NoAnswer(f"{url} has not ended its answer after {seconds:g} s") from error
    except (requests.RequestException, HTTPError) as error:
        raise NoAnswer(f"{url} does not answer: {reason(error)}") from error
    except ValueError as error:
        # A redirect is looked at by requests though none is followed, and may lead to no URL.
        raise NoAnswer(f"{url} answers with something that cannot be read") from error


def body(response: requests.Response, limit: int) -> bytes:
    """The whole of a streamed answer of at most `limit` bytes. Raises TooLong."""
    read = bytearray()
    # Piece by piece as they come: requests' own iterator waits until one is full, however slowly
    # it fills.
    while piece := response.raw.read1(65536):
        read += piece
        if len(read) > limit:
            raise TooLong(f"{response.url} answers with over {limit} bytes")
    return bytes(read)


def parsed(answer: bytes, parse: Callable[[bytes], T]) -> T:
    """Return what `parse` makes of an answer, or raise what it raises; see _LARGE."""
    if len(answer) <= _LARGE:
        return parse(answer)
    return _PARSER.submit(parse, answer).result()


def get(url: str, limit: int, seconds: float) -> Answer:
    """The file at `url`, of at most `limit` bytes, within `seconds`; redirects are not followed.

    Raises NotFound, NoAnswer.
    """
    with (
        asking(url, seconds) as session,
        session.get(
            url, headers=HEADERS, timeout=seconds, stream=True, allow_redirects=False
        ) as response,
    ):
        _mind_status(response)
        return Answer(
            body(response, limit),
            response.headers.get("Last-Modified"),
            response.headers.get("Date"),
        )


def seconds_of(date: str | None) -> float:
    """A Date or Last-Modified header in seconds since the epoch. Raises ValueError."""
    try:
        return parsedate_to_datetime((date or "")[:_LONGEST_DATE]).timestamp()
    except Exception as error:
        # Of any kind: the library raises nearly anything on what is no date.
        if exhausted(error):
            raise
        raise ValueError(f"{date!r:.80} is no time") from error


def _mind_status(response: requests.Response) -> None:
    status = response.status_code
    if status == requests.codes.ok:
        return
    text = f"{response.url} answers {status} {one_line(response.reason or '')}"
    # A redirect leads away from the place that the configuration trusts.
    if status < requests.codes.server_error and status not in (408, 429):
        raise NotFound(text)
    raise NoAnswer(text)
