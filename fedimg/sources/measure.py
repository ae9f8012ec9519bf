"""How large an image's file is and which version of it, by its file server's word alone.

The server is asked as the writing asks it, for a range, so that it tells both the same: some refuse
HEAD, or tell something else there. Redirects are followed where a download may follow them. What is
told of a failure holds no address that the server chose: such a one may be signed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import requests
from urllib3.exceptions import HTTPError

from fedimg.identity import Validator
from fedimg.images import LARGEST
from fedimg.sources import deadline, http
from fedimg.sources.file_server import FileServer, RedirectRefused, Trusted, reason

_TOTAL = re.compile(r"bytes (?:\d{1,15}-\d{1,15}|\*)/(\d{1,15})")
_DIGITS = re.compile(r"\d{1,15}")
_HEADERS = {**http.HEADERS, "Range": "bytes=0-0"}
#: Refusals that do not last.
_PASSING = (408, 429)


@dataclass(frozen=True)
class Measured:
    """A file's size in bytes, None where its server does not say, and its validator."""

    size: int | None = None
    validator: Validator = field(default_factory=Validator)


def measure(url: str, seconds: float, trusted: Trusted) -> Measured:
    """What the server of `url` says of the file, within `seconds`, asked for its first byte.

    Redirects are followed to whom the site trusts. Raises web.NotThere, web.NoAnswer.
    """
    try:
        with (
            deadline.session(seconds, FileServer(url, trusted)) as session,
            session.get(url, headers=_HEADERS, timeout=seconds, stream=True) as response,
        ):
            return _read(url, response)
    except RedirectRefused as error:
        raise http.NotFound(str(error)) from error
    except deadline.Overdue as error:
        raise http.NoAnswer(f"{url} has not ended its answer after {seconds:g} s") from error
    except (requests.RequestException, HTTPError) as error:
        raise http.NoAnswer(f"{url} does not answer: {reason(error)}") from error


def _read(url: str, response: requests.Response) -> Measured:
    status, said = response.status_code, response.headers
    if status in (200, 206):
        return Measured(_size(response), Validator.of(said.get("ETag"), said.get("Last-Modified")))
    if status == 416:
        # A file of nothing has no first byte.
        return Measured()
    raise (http.NoAnswer if status >= 500 or status in _PASSING else http.NotFound)(
        f"{url} answers {status}"
    )


def _size(response: requests.Response) -> int | None:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    if response.status_code == 206:
        match = _TOTAL.fullmatch(response.headers.get("Content-Range", ""))
        digits = match[1] if match else ""
    else:
        digits = response.headers.get("Content-Length", "")
    if not (digits.isascii() and _DIGITS.fullmatch(digits)):
        return None
    return int(digits) if 0 < int(digits) <= LARGEST else None
