"""Read parts of a file at a URL, by ranged requests."""

from __future__ import annotations

import io
import re
import time

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from fedimg.aws.write.image_errors import ImageUnreachable, ImageUnusable
from fedimg.sources.file_server import FileServer, RedirectRefused, Trusted, reason

#: The bytes of one request: enough for the index of an image in xz's usual blocks of 24 MiB.
WINDOW = 64 * 1024
#: The bytes that are read first: the header of an .xz file, and of a .zst file's first frame.
HEADER = 18
#: A file of one stream needs two or three requests; each further long stream needs one more, and so
#: does each 256 KiB of padding.
MOST_REQUESTS = 4096
#: In bytes: the index of about 30,000 blocks.
LARGEST_INDEX = 256 * 1024
#: Connect and read timeouts, in seconds.
TIMEOUTS = (10.0, 20.0)
#: When a server ignores Range, files up to so many bytes are read from their start.
LARGEST_UNRANGED = 32 * 1024 * 1024

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class RemoteFile(io.RawIOBase):
    """A file at a URL as a seekable file for python-xz, with limits on requests and bytes.

    It is opened, and later read, with what `image_size` raises. `limit` is the time for all
    requests together, in seconds.
    """

    def __init__(self, url: str, limit: float, trusted: Trusted) -> None:
        self.size = 0
        self._url = url
        # The target of the redirect, so that all ranges are of one file.
        self._mirror = url
        self._bypass_caches = False
        self._deadline = time.monotonic() + limit
        self._requests = 0
        self._at = 0
        self._window = b""
        self._window_at = 0
        try:
            self._http = FileServer(url, trusted)
        except RedirectRefused as error:
            raise ImageUnusable(str(error)) from error
        retries = Retry(
            2,
            backoff_factor=0.5,
            status_forcelist=(502, 503, 504),
            # The header may ask for an hour.
            respect_retry_after_header=False,
            raise_on_status=False,
        )
        adapter = HTTPAdapter(max_retries=retries)
        for scheme in ("http://", "https://"):
            self._http.mount(scheme, adapter)
        try:
            self._fetch(0, HEADER)
        except BaseException:
            self._http.close()
            raise

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        super().close()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the offset of the next byte to read, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            # The sizes in an index add up to more than the file.
            raise ImageUnusable(
                f"{self._url} is not a complete .xz file: its beginning is missing or damaged"
            )
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the offset of the next byte to read."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, or fewer at the end of the file."""
        end = min(self._at + size, self.size)
        if not (self._window_at <= self._at and end <= self._window_at + len(self._window)):
            if size > LARGEST_INDEX:
                raise ImageUnusable(f"{self._url} has an index of {size} bytes: it is damaged")
            # Indexes are read backwards, so the window extends to lower offsets.
            self._fetch(max(0, min(self._at, end - WINDOW)), end)
        start = self._at - self._window_at
        self._at = end
        return self._window[start : end - self._window_at]

    def _fetch(self, start: int, end: int) -> None:
        try:
            self._window, total = self._range(start, end)
        except RedirectRefused as error:
            raise ImageUnusable(f"cannot read {self._url}: {error}") from error
        except (requests.RequestException, HTTPError, OSError) as error:
            raise ImageUnreachable(f"cannot read {self._url}: {reason(error)}") from error
        if (self.size and total != self.size) or len(self._window) < min(end, total) - start:
            raise self._changed()
        self.size, self._window_at = total, start

    def _range(self, start: int, end: int) -> tuple[bytes, int]:
        """Return some bytes of the file, and the size of the whole file."""
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        while True:
            self._requests += 1
            if self._requests > MOST_REQUESTS:
                raise ImageUnusable(
                    f"{self._url} has too many streams: {MOST_REQUESTS} requests did not find its "
                    "size; compress it into one stream, as 'xz -T0' does"
                )
            if self._bypass_caches:
                headers["Cache-Control"] = "no-cache"
            with self._http.get(
                self._mirror, headers=headers, timeout=TIMEOUTS, stream=True
            ) as response:
                status = response.status_code
                if 400 <= status < 500 and self._mirror != self._url:
                    # The target of the redirect may have expired.
                    self._mirror = self._url
                    continue
                if status == requests.codes.ok:
                    total = self._whole(response)
                    if min(end, total) > LARGEST_UNRANGED:
                        self._bypass_caches_or_fail()
                        continue
                    # Some caches send the whole file when they hold it.
                    body = self._body(response, min(end, total))[start:]
                else:
                    total = self._part(response, start)
                    body = self._body(response, min(end, total) - start)
                self._mirror = response.url
                return body, total

    def _bypass_caches_or_fail(self) -> None:
        """Bypass caches from now on. Raises ImageUnreachable when they are bypassed already."""
        if self._bypass_caches:
            raise ImageUnreachable(
                f"the server of {self._url} ignores the Range header, even with Cache-Control: "
                "no-cache, so that the image's size cannot be read from the end of the file; serve "
                "the file from a server that supports ranges"
            )
        self._bypass_caches = True

    def _whole(self, response: requests.Response) -> int:
        """Return the size of the file from a response with the whole file."""
        length = response.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise ImageUnusable(f"the server of {self._url} does not say how large the file is")
        return int(length)

    def _part(self, response: requests.Response, start: int) -> int:
        """Return the size of the file from a response with a range that begins at `start`."""
        status = response.status_code
        if status == 416:
            raise ImageUnusable(f"{self._url} is empty: it is too short for an image")
        if status != 206:
            passing = status >= 500 or status in (408, 429)
            raise (ImageUnreachable if passing else ImageUnusable)(
                f"cannot read {self._url}: its server answers with status {status}"
            )
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not match:
            raise ImageUnusable(f"the server of {self._url} does not say how large the file is")
        if int(match[1]) != start:
            raise self._changed()
        return int(match[3])

    def _changed(self) -> ImageUnreachable:
        return ImageUnreachable(
            f"{self._url} changed while it was read, or its server answers with wrong ranges; "
            "retry when its upload is complete"
        )

    def _body(self, response: requests.Response, size: int) -> bytes:
        """Return the first `size` bytes of the response. Raises ImageUnreachable when too slow."""
        body = bytearray()
        while len(body) < size:
            if time.monotonic() > self._deadline:
                raise ImageUnreachable(f"cannot read {self._url}: its server is too slow")
            piece = response.raw.read1(min(size - len(body), WINDOW))
            if not piece:
                break
            body += piece
        return bytes(body)
