"""Measure an .xz file at a URL, its image and its blocks, without downloading all of it."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry
from xz import XZError

from fedimg.aws.write import xz_blocks
from fedimg.aws.write.thread_group import ThreadGroup
from fedimg.aws.write.xz_blocks import Block
from fedimg.aws.write.xz_dictionary import LARGEST, MIB
from fedimg.config import EC2
from fedimg.images import RawImage
from fedimg.sources.file_server import FileServer, RedirectRefused, Trusted, reason
from fedimg.untrusted.quoting import QuotedError

GIB = 1024**3

#: The bytes of one request: enough for the index of an image in xz's usual blocks of 24 MiB.
WINDOW = 64 * 1024
#: A file of one stream needs two or three requests; each further long stream needs one more, and so
#: does each 256 KiB of padding.
MOST_REQUESTS = 4096
#: In bytes: the index of about 30,000 blocks.
LARGEST_INDEX = 256 * 1024
#: Connect and read timeouts, in seconds.
TIMEOUTS = (10.0, 20.0)
#: The timeout of a measurement, in seconds.
LIMIT = 120.0
#: When a server ignores Range, files up to so many bytes are read from their start.
LARGEST_UNRANGED = 32 * 1024 * 1024

_MAGIC = b"\xfd7zXZ\x00"
_HEADER = 12
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class ImageUnusable(QuotedError):
    """The file cannot become an AMI; the text says why."""


class ImageUnreachable(ImageUnusable):
    """The file could not be read now; a later try may succeed."""


#: Allows redirects only to the URL's own host.
OWN_HOST_ONLY = Trusted()


@dataclass(frozen=True)
class ImageSize:
    """The size of an image's file, in bytes, and the blocks of the file."""

    compressed_size: int
    blocks: Sequence[Block] = field(repr=False)

    @property
    def uncompressed_size(self) -> int:
        """Return the size of the image, in bytes."""
        return self.blocks[-1].at + self.blocks[-1].size if self.blocks else 0


def image_size(
    url: str, *, maximum: int, limit: float = LIMIT, trusted: Trusted = OWN_HOST_ONLY
) -> ImageSize:
    """Return the sizes of the .xz file at `url`, which may have several streams, blocks and
    padding.

    A few ranged requests read the indexes at the ends of its streams (The .xz File Format, section
    4). Only decompression shows whether an index is right.

    Args:
        url: an http or https address; so is each target of a redirect.
        maximum: largest uncompressed size accepted, in bytes.
        limit: timeout for all requests together, in seconds.
        trusted: the hosts that `url` may redirect to, besides its own.

    Raises:
        ImageUnreachable: the server cannot be reached, refuses for now, is too slow, or does not
            serve ranges of the file.
        ImageUnusable: the address is not allowed, its server redirects to other hosts, or the file
            is not .xz, not complete, or larger than `maximum`.
    """
    with _RemoteFile(url, limit, trusted) as remote:
        begin = remote.read(_HEADER)
        if not begin.startswith(_MAGIC):
            raise ImageUnusable(
                f"{url} is not an .xz file: its first bytes are {begin[: len(_MAGIC)].hex(' ')}"
            )
        try:
            blocks = xz_blocks.read(cast(BinaryIO, remote))
        except xz_blocks.TooManyBlocks as error:
            raise ImageUnusable(f"{url} has {error}: compress it with larger blocks") from error
        except xz_blocks.DictionaryTooLarge as error:
            raise ImageUnusable(
                f"{url} was compressed with {error}, and decompressing it needs as much memory; "
                f"the limit is {LARGEST // MIB} MiB; compress it with 'xz -9' or less"
            ) from error
        except XZError as error:
            raise ImageUnusable(f"{url} is not a complete .xz file: {_plain(error)}") from error
        size = ImageSize(remote.size, blocks)
    if not size.uncompressed_size:
        raise ImageUnusable(f"{url} is an .xz file without any data")
    if size.uncompressed_size > maximum:
        raise ImageUnusable(
            f"{url} holds an image of {gib(size.uncompressed_size)} GiB, and the limit is "
            f"{gib(maximum)} GiB (ec2.limits.image_gib in the configuration)"
        )
    # xz makes incompressible data larger by less than a thousandth.
    if size.compressed_size > maximum + maximum // 100 + GIB // 1024:
        raise ImageUnusable(
            f"{url} is larger than its image: {gib(size.compressed_size)} GiB for an image of "
            f"{gib(size.uncompressed_size)} GiB; compress it again with xz"
        )
    return size


def measured(image: RawImage, settings: EC2, stop: threading.Event) -> ImageSize:
    """Return the `image_size` of an image, whose file has the size that Koji lists.

    Raises what `image_size` raises, and Cancelled at once when `stop` is set.
    """
    sizes: list[ImageSize] = []

    def measure() -> None:
        maximum = settings.limits.image_gib * GIB
        trusted = Trusted.of(settings, image)
        sizes.append(image_size(image.url, maximum=maximum, trusted=trusted))

    with ThreadGroup(stop, limit=2 * LIMIT) as threads:
        threads.start("image size", measure)
        threads.join()
    (size,) = sizes
    if other := image.other_than(size.compressed_size):
        raise ImageUnusable(other)
    return size


def gib(size: int) -> int:
    """Return `size` bytes in whole GiB, rounded up, the unit of EC2 volumes."""
    return -(-size // GIB)


def _plain(error: XZError) -> str:
    if str(error).startswith(("footer", "file: invalid size")):
        return f"its footer is missing, so it was truncated or overwritten ({error})"
    return f"it is damaged ({error})"


class _RemoteFile(io.RawIOBase):
    """A file at a URL as a seekable file for python-xz, with limits on requests and bytes."""

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
            self._fetch(0, _HEADER)
        except BaseException:
            self._http.close()
            raise

    def close(self) -> None:
        self._http.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            # The sizes in an index add up to more than the file.
            raise ImageUnusable(
                f"{self._url} is not a complete .xz file: its beginning is missing or damaged"
            )
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
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
            raise ImageUnusable(f"{self._url} is not an .xz file: it is too short")
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
