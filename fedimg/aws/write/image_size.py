"""Measure an image at a URL, and its file's parts, before anything is made in EC2 for it.

An .xz file lists its image's size, and a plain image is as large as its file: a few bytes of these
are read. The header of a .zst frame tells the size of that frame, the end of a .gz member that of
the member modulo 4 GiB, and nothing tells whether another one follows: those are read to their end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, cast
from urllib.parse import unquote

from backports import zstd
from xz import XZError

from fedimg.aws.write import xz_blocks
from fedimg.aws.write.download import Download
from fedimg.aws.write.image_errors import ImageUnusable
from fedimg.aws.write.remote_file import HEADER, RemoteFile
from fedimg.aws.write.streamed_size import streamed_size, too_large
from fedimg.aws.write.thread_group import ThreadGroup
from fedimg.aws.write.units import GIB, gib
from fedimg.aws.write.unpacking import Section, WholeFile
from fedimg.aws.write.xz_dictionary import LARGEST, MIB
from fedimg.config import EC2
from fedimg.formats import GZIP, PLAIN, XZ, ZSTD, Format, format_of
from fedimg.images import RawImage
from fedimg.sources.file_server import Trusted

#: The timeout of a measurement that does not read the whole file, in seconds.
LIMIT = 120.0

_MAGICS = {XZ: b"\xfd7zXZ\x00", ZSTD: b"\x28\xb5\x2f\xfd", GZIP: b"\x1f\x8b"}
# Frames that may be skipped have sixteen magic numbers, the first byte of which differs (RFC 8878,
# section 3.1.2).
_SKIPPABLE, _SKIPPABLE_FIRST = b"\x2a\x4d\x18", range(0x50, 0x60)

#: Allows redirects only to the URL's own host.
OWN_HOST_ONLY = Trusted()


@dataclass(frozen=True)
class ImageSize:
    """The size of an image's file, in bytes, and the sections of the file.

    There are no sections when only reading the whole file tells the size of its image.
    """

    compressed_size: int
    blocks: Sequence[Section] = field(repr=False)

    @property
    def uncompressed_size(self) -> int:
        """Return the size of the image, in bytes; 0 when it is not known."""
        return self.blocks[-1].at + self.blocks[-1].size if self.blocks else 0


def image_size(
    url: str, *, maximum: int, limit: float = LIMIT, trusted: Trusted = OWN_HOST_ONLY
) -> ImageSize:
    """Return the sizes of the file at `url` that a few ranged requests tell, by its name's suffix.

    An .xz file may have several streams, blocks and padding; the indexes at the ends of its streams
    are read (The .xz File Format, section 4). Only decompression shows whether an index is right.

    Args:
        url: an http or https address; so is each target of a redirect.
        maximum: largest uncompressed size accepted, in bytes.
        limit: timeout for all requests together, in seconds.
        trusted: the hosts that `url` may redirect to, besides its own.

    Raises:
        ImageUnreachable: the server cannot be reached, refuses for now, is too slow, or does not
            serve ranges of the file.
        ImageUnusable: the address is not allowed, its server redirects to other hosts, or the file
            is of another format, not complete, or larger than `maximum`.
    """
    form = format_of(unquote(url)) or PLAIN
    with RemoteFile(url, limit, trusted) as remote:
        begin = remote.read(HEADER)
        _refuse_other_format(url, form, begin)
        if form is XZ:
            size = ImageSize(remote.size, _xz_blocks(url, remote))
        elif form is PLAIN:
            size = ImageSize(remote.size, [WholeFile(PLAIN, remote.size, remote.size)])
        else:
            size = ImageSize(remote.size, ())
    claimed = _claimed(begin) if form is ZSTD else size.uncompressed_size
    if claimed > maximum:
        raise ImageUnusable(f"{url} {too_large('', claimed, maximum)}")
    # A format makes incompressible data larger by less than a thousandth.
    if size.compressed_size > maximum + maximum // 100 + GIB // 1024:
        image = f" of {gib(size.uncompressed_size)} GiB" if size.uncompressed_size else ""
        raise ImageUnusable(
            f"{url} is larger than its image: {gib(size.compressed_size)} GiB for an image{image}, "
            f"of which the limit is {gib(maximum)} GiB; compress it again"
        )
    return size


def measured(
    image: RawImage, settings: EC2, stop: threading.Event, on_progress: Callable[[str], None]
) -> ImageSize:
    """Return the size of an image, whose file has the size that Koji lists, with all its sections.

    `on_progress` is told how much is read of a file that is read to its end. Raises what
    `image_size` and `streamed_size` raise, and Cancelled at once when `stop` is set.
    """
    maximum = settings.limits.image_gib * GIB
    trusted = Trusted.of(settings, image)
    sizes: list[ImageSize] = []

    def measure() -> None:
        sizes.append(image_size(image.url, maximum=maximum, trusted=trusted))

    with ThreadGroup(stop, limit=2 * LIMIT) as threads:
        threads.start("image size", measure)
        threads.join()
    (size,) = sizes
    if other := image.other_than(size.compressed_size):
        raise ImageUnusable(other)
    if size.blocks:
        return size
    download = Download.of(image, size.compressed_size, settings)
    try:
        length = streamed_size(
            image.format,
            download,
            file_size=size.compressed_size,
            maximum=maximum,
            limit=settings.limits.write,
            stop=stop,
            on_progress=on_progress,
        )
    except ImageUnusable as error:
        raise type(error)(f"{image.url}: {error}") from error
    if not length:
        raise ImageUnusable(f"{image.url} is {_ending(image.format)} file without any data")
    whole = WholeFile(image.format, size.compressed_size, length)
    return ImageSize(size.compressed_size, [whole])


def _refuse_other_format(url: str, form: Format, begin: bytes) -> None:
    skippable = begin[1:4] == _SKIPPABLE and begin[0] in _SKIPPABLE_FIRST
    found = next((each for each, magic in _MAGICS.items() if begin.startswith(magic)), PLAIN)
    found = ZSTD if skippable else found
    if found is form:
        return
    if form is PLAIN:
        raise ImageUnusable(
            f"{url} is no image but {_ending(found)} file: its name has to end in {found.suffix}"
        )
    first = begin[: len(_MAGICS[form])].hex(" ")
    raise ImageUnusable(f"{url} is not {_ending(form)} file: its first bytes are {first}")


def _ending(form: Format) -> str:
    """Return a format's last suffix with its article, such as `an .xz`."""
    suffix = "." + form.suffix.rpartition(".")[2]
    return f"an {suffix}" if form is XZ else f"a {suffix}"


def _claimed(begin: bytes) -> int:
    """Return the image's size in bytes that the header of a .zst file's first frame claims, or 0.

    The image is as large, or larger, or the file is damaged.
    """
    try:
        return zstd.get_frame_info(begin).decompressed_size or 0
    except zstd.ZstdError:
        # Too short, or damaged, which decompression tells better.
        return 0


def _xz_blocks(url: str, remote: RemoteFile) -> Sequence[Section]:
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
    if not sum(block.size for block in blocks):
        raise ImageUnusable(f"{url} is an .xz file without any data")
    return blocks


def _plain(error: XZError) -> str:
    if str(error).startswith(("footer", "file: invalid size")):
        return f"its footer is missing, so it was truncated or overwritten ({error})"
    return f"it is damaged ({error})"
