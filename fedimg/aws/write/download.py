"""Download a file in pieces, and verify its size and checksum at the end."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Generator, Sequence

import requests
from urllib3.exceptions import HTTPError

from fedimg.aws.write.image_errors import ImageUnreachable, ImageUnusable
from fedimg.aws.write.remote_file import TIMEOUTS
from fedimg.config import EC2
from fedimg.images import RawImage
from fedimg.sources.file_server import FileServer, RedirectRefused, Trusted, reason
from fedimg.untrusted.quoting import one_line

# In bytes. Large enough that Python's overhead is negligible.
_PIECE = 256 * 1024
#: A download fails after MOST_FRUITLESS connections in a row with less than LEAST bytes each.
MOST_FRUITLESS = 3
LEAST = 64 * 1024

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")


class _Broken(Exception):
    """A connection did not bring the rest of the file; another one may."""


class Download:
    """One download of a file of `size` bytes, with a `checksum` (`ALGORITHM:HEX`) if it has one.

    When a connection breaks, another one continues after the last byte. Each begins at `url`, since
    the target of a redirect may expire. `idle` is the longest time, in seconds, without data from
    the server.
    """

    def __init__(
        self, url: str, *, size: int, checksum: str | None, idle: float, trusted: Trusted
    ) -> None:
        self._url = url
        self._size = size
        self._checksum = checksum
        self._idle = idle
        self._trusted = trusted
        self._ended = threading.Event()
        self._response: requests.Response | None = None
        self._received = 0
        self._version: Sequence[str | None] = ()
        self._bypass_caches = False

    @classmethod
    def of(cls, image: RawImage, size: int, settings: EC2) -> Download:
        """Return the download of an image's file, which has `size` bytes."""
        return cls(
            image.url,
            size=size,
            checksum=image.checksum,
            idle=settings.limits.write_idle,
            trusted=Trusted.of(settings, image),
        )

    def run(self, give: Callable[[bytes], None]) -> None:
        """Pass every piece of the file to `give`, in order.

        Raises ImageUnreachable when the file does not arrive completely, ImageUnusable when its
        checksum differs; by then all of its pieces were passed on.
        """
        digest = self._digest()
        fruitless = 0
        while self._received < self._size:
            before = self._received
            try:
                with contextlib.closing(self._connection()) as pieces:
                    for piece in pieces:
                        if digest:
                            digest.update(piece)
                        give(piece)
                failure = "the connection ended before the file did"
            except _Broken as error:
                failure = str(error)
            if self._received - before >= LEAST:
                fruitless = 0
            elif self._received < self._size:
                fruitless += 1
            if self._ended.is_set() or fruitless == MOST_FRUITLESS:
                raise ImageUnreachable(
                    f"download: cannot read all of {self._url}, "
                    f"{self._size - self._received} bytes remaining: {failure}"
                )
            # The first retry is immediate, since servers close long connections.
            self._ended.wait(max(0, fruitless - 1))
        if digest:
            actual = f"{digest.name}:{digest.hexdigest()}"
            if actual != self._checksum:
                raise ImageUnusable(f"checksum: the file has {actual}, expected {self._checksum}")

    def end(self) -> None:
        """Abort: a `run` that waits for data returns from the wait."""
        self._ended.set()
        # There may be no connection yet, or no longer.
        with contextlib.suppress(AttributeError, ValueError, RuntimeError, OSError):
            self._response.raw.shutdown()  # type: ignore[union-attr]

    def _digest(self) -> hashlib._Hash | None:
        if self._checksum is None:
            return None
        # Koji still publishes MD5 checksums, and some systems forbid MD5 for security purposes.
        return hashlib.new(self._checksum.partition(":")[0], usedforsecurity=False)

    def _connection(self) -> Generator[bytes]:
        """Yield the pieces that one connection brings, after the last byte that was received."""
        # Without this header, requests asks for another compression.
        headers = {"Accept-Encoding": "identity"}
        if self._received:
            headers["Range"] = f"bytes={self._received}-"
        if self._bypass_caches:
            headers["Cache-Control"] = "no-cache"
        try:
            with (
                FileServer(self._url, self._trusted) as http,
                http.get(
                    self._url, headers=headers, timeout=(TIMEOUTS[0], self._idle), stream=True
                ) as response,
            ):
                self._response = response
                begin = self._begin(response)
                while not self._ended.is_set() and (piece := response.raw.read(_PIECE)):
                    overlap = self._received - begin
                    begin += len(piece)
                    if overlap >= len(piece):
                        continue
                    piece = piece[overlap:]
                    if self._received + len(piece) > self._size:
                        raise ImageUnreachable(
                            f"download: {self._url} sends more than the expected {self._size} bytes"
                        )
                    self._received += len(piece)
                    yield piece
        except RedirectRefused as error:
            raise ImageUnusable(f"download: {error}") from error
        except (requests.RequestException, HTTPError, OSError) as error:
            raise _Broken(reason(error)) from error

    def _begin(self, response: requests.Response) -> int:
        """Return the offset of the response in the file, at most the number of received bytes."""
        status = response.status_code
        if status == 206:
            begin, total = self._part(response)
        elif status == requests.codes.ok:
            begin, total = 0, response.headers.get("Content-Length", str(self._size))
        else:
            # The target of a redirect may have expired.
            passing = status >= 500 or status in (408, 429) or bool(response.history)
            if passing:
                raise _Broken(f"its server answers with status {status}")
            raise ImageUnusable(f"download: the server of {self._url} answers with status {status}")
        version = [response.headers.get(name) for name in ("ETag", "Last-Modified")]
        if total != str(self._size) or _differ(self._version, version):
            raise ImageUnreachable(
                f"download: {self._url} was changed: it now has {one_line(total, 20)} bytes, or "
                f"other {self._size} bytes than when it was measured; retry when its upload is "
                "complete"
            )
        self._version = version
        if begin < self._received and not self._bypass_caches:
            # Bypass caches first; if the server ignores Range, too, read the file from its start.
            self._bypass_caches = True
            raise _Broken("its server ignores the Range header and sends the whole file")
        return begin

    def _part(self, response: requests.Response) -> tuple[int, str]:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not match or int(match[1]) > self._received:
            raise _Broken("its server does not send the requested range")
        return int(match[1]), match[2]


def _differ(one: Sequence[str | None], other: Sequence[str | None]) -> bool:
    """Return whether two responses are of different versions, by their first common header."""
    for before, now in zip(one, other, strict=False):
        if before is not None and now is not None:
            return before != now
    return False
