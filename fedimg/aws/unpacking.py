"""An .xz file, piece by piece, into the blocks of the image in it."""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Iterator

from fedimg.aws.image_size import ImageUnusable

#: In bytes; the only block size that EBS has.
BLOCK = 512 * 1024
# In bytes: `xz -9` needs 65 MiB, and nothing that Koji makes needs more.
_MEMORY = 96 * 1024 * 1024
# The .xz File Format, section 2.2: Stream Padding.
_PADDING_UNIT = 4


def unpacked(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The blocks of an image of `size` bytes, the last one filled up with zeros.

    Every piece is taken before the last block is through, so what these raise is raised here.
    Raises ImageUnusable when the file is damaged, or holds more or less than its index promised.
    """
    xz = _Unpacker(pieces)
    for start in range(0, size, BLOCK):
        wanted = min(BLOCK, size - start)
        block = xz.read(wanted)
        if len(block) < wanted:
            raise ImageUnusable(
                f"decompression: {start + len(block)} bytes came out in place of {size}"
            )
        if start + wanted == size and xz.read(1):
            raise ImageUnusable(
                f"decompression: there is more than the {size} bytes that the file's index promised"
            )
        yield block.ljust(BLOCK, b"\0")


class _Unpacker:
    """Reads through streams one after the other, and the padding between and behind them."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""
        self._stream: lzma.LZMADecompressor | None = _stream()

    def read(self, size: int) -> bytes:
        """The next `size` bytes, or all that are left."""
        parts = []
        while size and (part := self._some(size)):
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _some(self, most: int) -> bytes:
        while stream := self._stream or self._next_stream():
            try:
                data = stream.decompress(self._input(stream), most)
            except lzma.LZMAError as error:
                raise ImageUnusable(f"decompression: {error}") from error
            if stream.eof:
                self._rest = stream.unused_data
                self._stream = None
            if data:
                return data
        return b""

    def _input(self, stream: lzma.LZMADecompressor) -> bytes:
        if not stream.needs_input:
            return b""
        if not (piece := self._piece()):
            raise ImageUnusable("decompression: the file ends in the middle of a stream")
        return piece

    def _next_stream(self) -> lzma.LZMADecompressor | None:
        padding = 0
        while piece := self._piece():
            self._rest = piece.lstrip(b"\0")
            padding += len(piece) - len(self._rest)
            if self._rest:
                break
        if padding % _PADDING_UNIT:
            raise ImageUnusable("decompression: bytes are missing between two streams")
        self._stream = _stream() if self._rest else None
        return self._stream

    def _piece(self) -> bytes:
        piece, self._rest = self._rest or next(self._pieces, b""), b""
        return piece


def _stream() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY)
