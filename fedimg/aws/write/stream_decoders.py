"""Decompress a whole file while it arrives in pieces: .zst, .gz, and a plain image.

Both ways of writing accept what these decoders accept: any number of frames or members, as the
programs zstd and gzip do.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator

from backports import zstd

from fedimg.aws.write.image_errors import ImageUnusable
from fedimg.formats import GZIP, PLAIN, ZSTD, Format

#: The largest window of a .zst frame as a power of two, in bytes: 128 MiB, with which `zstd --long`
#: compresses, and which `zstd -d` accepts without an option. Decompression takes so much memory.
WINDOW_LOG = 27
# In bytes, of the image: the most that is decompressed at once.
_PART = 2 * 1024 * 1024
# In bytes, of the file: what follows the end of a frame or member is copied, and may be the next of
# very many.
_PIECE = 16 * 1024
# zlib's for the header and the checksum of .gz.
_GZIP_MEMBER = 16 + zlib.MAX_WBITS


def decoded(form: Format, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the image in parts of at most 2 MiB; the pieces are those of a file of this format.

    Raises ImageUnusable when the file is damaged or incomplete, when other bytes follow its last
    frame or member, or when decompressing it takes too much memory; some parts may have been
    yielded by then.
    """
    return _DECODERS[form](pieces)


def _zstd(pieces: Iterable[bytes]) -> Iterator[bytes]:
    frame: zstd.ZstdDecompressor | None = None
    limits: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
    for rest in _small(pieces):
        more = True
        while more:
            # A frame that may be skipped is one without data.
            frame = frame or zstd.ZstdDecompressor(options=limits)
            try:
                part = frame.decompress(rest, _PART)
            except zstd.ZstdError as error:
                raise ImageUnusable(f"decompression: {_zstd_problem(error)}") from error
            if part:
                yield part
            if frame.eof:
                rest, frame = frame.unused_data, None
                more = bool(rest)
            else:
                rest, more = b"", not frame.needs_input
    if frame is not None:
        raise _incomplete("frame")


def _zstd_problem(error: zstd.ZstdError) -> str:
    text = str(error).rstrip(".")
    # The library gives the reason of a failure only in words.
    if "too much memory" in text:
        return (
            "the file was compressed with a window of more than "
            f"{2 ** (WINDOW_LOG - 20)} MiB, and decompressing it takes as much memory; compress it "
            "with 'zstd -19 --long' or less"
        )
    if "Unknown frame descriptor" in text:
        return "the file is damaged, or other bytes follow its last frame"
    return text


def _gzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    member: zlib._Decompress | None = None
    first, padded = True, False
    for rest in _small(pieces):
        while rest:
            if member is None:
                # As gzip does, accept zeros behind the last member.
                behind = rest if first else rest.lstrip(b"\0")
                padded = padded or len(behind) < len(rest)
                if padded and behind:
                    raise ImageUnusable("decompression: other bytes follow the file's last member")
                if not behind:
                    break
                rest, first = behind, False
                member = zlib.decompressobj(_GZIP_MEMBER)
            yield from _decompressed(member, rest)
            rest = member.unused_data if member.eof else member.unconsumed_tail
            member = None if member.eof else member
    while member is not None:
        parts = list(_decompressed(member, b""))
        if not parts:
            raise _incomplete("member")
        yield from parts
        member = None if member.eof else member


def _decompressed(member: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    try:
        part = member.decompress(data, _PART)
    except zlib.error as error:
        if "incorrect header check" in str(error):
            reason = "the file is damaged, or other bytes follow its last member"
        else:
            reason = f"the file is damaged ({error})"
        raise ImageUnusable(f"decompression: {reason}") from error
    if part:
        yield part


def _small(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), _PIECE):
            yield piece[start : start + _PIECE]


def _incomplete(unit: str) -> ImageUnusable:
    return ImageUnusable(f"decompression: the file ends within a {unit}: it is incomplete")


_DECODERS: dict[Format, Callable[[Iterable[bytes]], Iterator[bytes]]] = {
    ZSTD: _zstd,
    GZIP: _gzip,
    PLAIN: iter,
}
