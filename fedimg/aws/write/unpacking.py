"""Decompress the sections of a file independently, while the file arrives in pieces.

An .xz file has a section for each block; a file of another format is one section.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from xz.common import create_xz_header, create_xz_index_footer

from fedimg.aws.write import xz_dictionary
from fedimg.aws.write.image_errors import ImageUnusable
from fedimg.aws.write.stream_decoders import decoded
from fedimg.aws.write.thread_group import Bytes
from fedimg.aws.write.xz_blocks import Block
from fedimg.formats import Format

#: In bytes: liblzma's memory for the largest dictionary.
MEMORY = xz_dictionary.LARGEST + 1024 * 1024
# In bytes. After each part a thread waits for Python's lock, about a millisecond.
_PART = 2 * 1024 * 1024


@dataclass(frozen=True)
class WholeFile:
    """The one section of a file of `end` bytes, of a format that is decompressed in one go.

    Its image has `size` bytes. The other fields are as in `Block`.
    """

    form: Format
    end: int
    size: int
    start: int = 0
    at: int = 0


#: A part of a file that can be decompressed by itself.
Section = Block | WholeFile


class Cut:
    """Splits a file into its sections; `begin` returns a pipe for the pieces of each."""

    def __init__(self, blocks: Iterable[Section], begin: Callable[[Section], Bytes]) -> None:
        self._blocks = iter(blocks)
        self._block = next(self._blocks, None)
        self._begin = begin
        self._pipe: Bytes | None = None
        self._at = 0

    def give(self, piece: bytes) -> None:
        """Pass on the next bytes of the file, without those between and after the blocks."""
        start, end = self._at, self._at + len(piece)
        while (block := self._block) and block.start < end:
            self._pipe = self._pipe or self._begin(block)
            self._pipe.put(piece[max(block.start - start, 0) : block.end - start])
            if block.end > end:
                break
            self._pipe.close()
            self._pipe = None
            self._block = next(self._blocks, None)
        self._at = end


def unpacked(section: Section, pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the decompressed parts of one section, each with its offset in the image.

    All pieces are consumed. Raises ImageUnusable when the section is damaged, or has another size
    than was measured; some parts may have been yielded by then.
    """
    if isinstance(section, Block):
        return _xz_block(section, pieces)
    return _whole(section, pieces)


def _whole(file: WholeFile, pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    at = 0
    for part in decoded(file.form, pieces):
        if at + len(part) > file.size:
            break
        yield at, part
        at += len(part)
    else:
        if at == file.size:
            return
    raise ImageUnusable(
        f"decompression: the file does not hold the {file.size} bytes that were measured: it was "
        "changed since"
    )


def _xz_block(block: Block, pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    # Wrapped as a file, so that liblzma verifies the block and its entry in the index.
    begin = create_xz_header(block.check)
    end = create_xz_index_footer(block.check, [(block.packed, block.size)])
    stream = chain((begin,), _with_lower_dictionary(pieces, block.size), (end,))
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MEMORY)
    at, most = block.at, block.at + block.size
    while not decompressor.eof:
        piece = next(stream, b"") if decompressor.needs_input else b""
        if decompressor.needs_input and not piece:
            break
        try:
            part = decompressor.decompress(piece, _PART)
        except lzma.LZMAError as error:
            raise ImageUnusable(f"decompression: {error}") from error
        if at + len(part) > most:
            break
        if part:
            yield at, part
        at += len(part)
    if at != most or not decompressor.eof or decompressor.unused_data or next(stream, b""):
        raise ImageUnusable(
            f"decompression: the block at byte {block.start} does not hold the {block.size} bytes "
            "that the file's index lists"
        )


def _with_lower_dictionary(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield a block, with its header changed to ask for no more memory than `size` bytes fill."""
    rest = iter(pieces)
    begin = b""
    for piece in rest:
        begin += piece
        if begin and len(begin) >= xz_dictionary.header_length(begin[0]):
            break
    if begin:
        length = xz_dictionary.header_length(begin[0])
        yield xz_dictionary.lowered(begin[:length], size) + begin[length:]
    yield from rest
