"""Measure an image by reading and decompressing its whole file once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fedimg.aws.write.download import Download
from fedimg.aws.write.image_errors import ImageUnreachable, ImageUnusable
from fedimg.aws.write.progress import now_and_then
from fedimg.aws.write.stream_decoders import decoded
from fedimg.aws.write.thread_group import Bytes, MemoryBudget, ThreadGroup, TooSlow
from fedimg.aws.write.units import gib
from fedimg.formats import Format

# In bytes: what may wait to be decompressed.
_WAITING = 4 * 1024 * 1024


def streamed_size(
    form: Format,
    download: Download,
    *,
    file_size: int,
    maximum: int,
    limit: float,
    stop: threading.Event,
    on_progress: Callable[[str], None],
) -> int:
    """Return the size of an image, in bytes, whose file of `file_size` bytes is read to its end.

    No more than `maximum` bytes of the image are decompressed. Raises ImageUnusable when the file
    is damaged, incomplete, has another checksum, or holds no image or a larger one;
    ImageUnreachable when it cannot be read within `limit` seconds; Cancelled when `stop` is set.
    """
    read = length = 0

    def report() -> None:
        on_progress(f"{100 * read // file_size}% of the {form.suffix} read, to measure its image")

    with ThreadGroup(stop, limit=limit) as threads:
        pieces = Bytes(threads, MemoryBudget(threads, _WAITING))

        def fetch() -> None:
            def give(piece: bytes) -> None:
                nonlocal read
                pieces.put(piece)
                read += len(piece)

            download.run(give)
            pieces.close()

        def decode() -> None:
            nonlocal length
            for part in decoded(form, pieces):
                length += len(part)
                if length > maximum:
                    raise ImageUnusable(too_large("more than ", maximum, maximum))

        threads.start("download", fetch)
        threads.start("measuring", decode)
        try:
            threads.join(on_poll=now_and_then(report))
        except TooSlow as error:
            raise ImageUnreachable(
                f"reading the whole file, which tells its image's size, {error} (ec2.limits.write)"
            ) from error
        finally:
            download.end()
    return length


def too_large(more: str, size: int, maximum: int) -> str:
    """Return that an image has too many bytes: `size`, or `more` than that."""
    return (
        f"holds an image of {more}{gib(size)} GiB, and the limit is {gib(maximum)} GiB "
        "(ec2.limits.image_gib in the configuration)"
    )
