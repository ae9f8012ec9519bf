"""Limit the dictionary, and so the memory, that decompressing a block of an .xz file takes.

A block's header asks for the dictionary size of its compressor's settings, even for a short block;
decompression needs only as much as the block fills (The .xz File Format, sections 3.1 and 5.3.1).
"""

from __future__ import annotations

from xz import XZError
from xz.common import crc32, decode_mbi

MIB = 1024**2

#: The largest accepted dictionary, in bytes. `xz -9` uses 64 MiB, and Koji's images 8 MiB.
LARGEST = 96 * MIB
#: The longest header of a block, in bytes.
LONGEST_HEADER = 1024

_CRC = 4
_LZMA2 = 0x21
_FILTERS = 0x03
_OPTIONAL_SIZES = (0x40, 0x80)
_SIZE = 0x3F
#: The code of 4 GiB less one byte.
_LARGEST_CODE = 40


def header_length(first: int) -> int:
    """Return the length, in bytes, of the block header that begins with this byte."""
    return (first + 1) * 4


def dictionary_size(header: bytes) -> int:
    """Return the dictionary size, in bytes, that a block's header asks for.

    `header` may be followed by other bytes. A damaged header gives 0; the decoder will reject it.
    """
    at = _dictionary_offset(header)
    return 0 if at is None else _dictionary(header[at] & _SIZE)


def lowered(header: bytes, size: int) -> bytes:
    """Return the header of a block of `size` uncompressed bytes, asking for no larger dictionary.

    A damaged header is returned unchanged.
    """
    at = _dictionary_offset(header)
    if at is None:
        return header
    current = header[at] & _SIZE
    lowest = next(code for code in range(_LARGEST_CODE + 1) if _suffices(code, size))
    if lowest >= current:
        return header
    changed = bytearray(header[:-_CRC])
    changed[at] = (header[at] & ~_SIZE) | lowest
    return bytes(changed) + crc32(bytes(changed))


def _suffices(code: int, size: int) -> bool:
    return code == _LARGEST_CODE or _dictionary(code) >= size


def _dictionary(code: int) -> int:
    if code >= _LARGEST_CODE:
        return 2**32 - 1
    return (2 | code & 1) << (code // 2 + 11)


def _dictionary_offset(header: bytes) -> int | None:
    """Return the offset of the dictionary size in the header; None for a damaged header."""
    end = header_length(header[0]) - _CRC if header else 0
    if end < _CRC or len(header) < end + _CRC or crc32(header[:end]) != header[end : end + _CRC]:
        return None
    at = 2
    try:
        for flag in _OPTIONAL_SIZES:
            if header[1] & flag:
                at += decode_mbi(header[at:end])[0]
        for _ in range((header[1] & _FILTERS) + 1):
            used, filter_id = decode_mbi(header[at:end])
            at += used
            used, length = decode_mbi(header[at:end])
            at += used
            if filter_id == _LZMA2 and length == 1 and at < end:
                return at
            at += length
    except XZError:
        pass
    return None
