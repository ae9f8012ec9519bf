"""Ask a file server for the size and the validator of an image's file.

The request is for a range, like the download's, because some servers reject HEAD, or answer it
differently. It follows the redirects that a download may follow. Errors hold no URL that the server
chose, which may be a signed one.
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
#: Status codes of temporary failures.
_TEMPORARY = (408, 429)


@dataclass(frozen=True)
class Measured:
    """A file's size in bytes, None if its server does not send it, and its validator."""

    size: int | None = None
    validator: Validator = field(default_factory=Validator)


def measure(url: str, seconds: float, trusted: Trusted) -> Measured:
    """Return the size and validator of the file at `url`, by a request for its first byte.

    The server has `seconds` to answer. Redirects to `trusted` hosts are followed. Raises
    http.NotFound, http.NoAnswer.
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
        raise http.NoAnswer(
            f"timed out after {seconds:g} s waiting for the whole answer of {url}"
        ) from error
    except (requests.RequestException, HTTPError) as error:
        raise http.NoAnswer(f"{url} does not answer: {reason(error)}") from error


def _read(url: str, response: requests.Response) -> Measured:
    status, headers = response.status_code, response.headers
    if status in (200, 206):
        return Measured(
            _size(response), Validator.of(headers.get("ETag"), headers.get("Last-Modified"))
        )
    if status == 416:
        # An empty file has no first byte.
        return Measured()
    raise (http.NoAnswer if status >= 500 or status in _TEMPORARY else http.NotFound)(
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
