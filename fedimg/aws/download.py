"""A file at a URL, downloaded in pieces as they come, and found to be the right one at the end."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable

import requests
from urllib3.exceptions import HTTPError

from fedimg.aws.file_server import FileServer, RedirectRefused
from fedimg.aws.image_size import PATIENCE, ImageUnreachable, ImageUnusable

# In bytes. Large enough that Python's part of a download is nothing.
_PIECE = 256 * 1024


class Download:
    """One download of a file of `size` bytes, with a `checksum` (`ALGORITHM:HEX`) if it has one.

    `idle` is the longest, in seconds, that the server may send nothing.
    """

    def __init__(self, url: str, *, size: int, checksum: str | None, idle: float) -> None:
        self._url = url
        self._size = size
        self._checksum = checksum
        self._idle = idle
        self._ended = threading.Event()
        self._response: requests.Response | None = None

    def run(self, give: Callable[[bytes], None]) -> None:
        """Give every piece of the file, in order.

        Raises ImageUnreachable when it does not come whole, ImageUnusable when it has another
        checksum; by then all of its pieces were given.
        """
        digest = self._digest()
        received = 0
        try:
            # A header of its own keeps requests from asking for a second compression.
            headers = {"Accept-Encoding": "identity"}
            # Where its size was found it has been redirected to already.
            with (
                FileServer(self._url, trusted=()) as http,
                http.get(
                    self._url, headers=headers, timeout=(PATIENCE[0], self._idle), stream=True
                ) as response,
            ):
                self._response = response
                self._check(response)
                while not self._ended.is_set() and (piece := response.raw.read(_PIECE)):
                    received += len(piece)
                    if received > self._size:
                        break
                    if digest:
                        digest.update(piece)
                    give(piece)
        except RedirectRefused as error:
            raise ImageUnusable(f"download: {error}") from error
        except (requests.RequestException, HTTPError, OSError) as error:
            raise ImageUnreachable(
                f"download: cannot read {self._url} to its end, {self._size - received} bytes "
                f"remaining: {error}"
            ) from error
        if received != self._size:
            came = f"{received} bytes" if received < self._size else f"more than {self._size} bytes"
            raise ImageUnreachable(f"download: {came} came in place of {self._size}")
        if digest:
            found = f"{digest.name}:{digest.hexdigest()}"
            if found != self._checksum:
                raise ImageUnusable(f"checksum: the file has {found} in place of {self._checksum}")

    def end(self) -> None:
        """Break off: whoever waits in `run` for the server's next bytes goes on."""
        self._ended.set()
        # Not connected yet, or through already.
        with contextlib.suppress(AttributeError, ValueError, RuntimeError, OSError):
            self._response.raw.shutdown()  # type: ignore[union-attr]

    def _digest(self) -> hashlib._Hash | None:
        if self._checksum is None:
            return None
        # Where the system forbids MD5 for secrets, Koji still names its files by it.
        return hashlib.new(self._checksum.partition(":")[0], usedforsecurity=False)

    def _check(self, response: requests.Response) -> None:
        if response.status_code != requests.codes.ok:
            passing = response.status_code >= 500 or response.status_code in (408, 429)
            raise (ImageUnreachable if passing else ImageUnusable)(
                f"download: the server of {self._url} answers {response.status_code} "
                f"{response.reason}"
            )
        said = response.headers.get("Content-Length", str(self._size))
        if said != str(self._size):
            raise ImageUnreachable(
                f"download: {self._url} has {said} bytes now in place of {self._size}; try again "
                "when its upload is complete"
            )
