"""How much of an image an .xz decoder keeps at hand: the dictionary that a block's header asks for.

The header asks for as much as its packer was set to, be the block ever so short; what the block can
fill of it is what unpacking needs (The .xz File Format, sections 3.1 and 5.3.1).
"""

from __future__ import annotations

from xz import XZError
from xz.common import crc32, decode_mbi

MIB = 1024**2

#: The largest dictionary that is taken, in bytes. `xz -9` has 64 MiB, and Koji's images have 8.
LARGEST = 96 * MIB
#: The longest header of a block, in bytes.
LONGEST_HEADER = 1024

_CRC = 4
_LZMA2 = 0x21
_FILTERS = 0x03
_OPTIONAL_SIZES = (0x40, 0x80)
_SIZE = 0x3F
#: Stands for 4 GiB less one byte.
_LARGEST_CODE = 40


def header_length(first: int) -> int:
    """Return how long the block header is, in bytes, that begins with this byte."""
    return (first + 1) * 4


def asked(header: bytes) -> int:
    """Return how many bytes of dictionary a block's header asks for.

    `header` may be followed by other bytes. For a header that is damaged that is 0: the decoder
    will say so.
    """
    at = _place(header)
    return 0 if at is None else _dictionary(header[at] & _SIZE)


def lowered(header: bytes, size: int) -> bytes:
    """Return the header of a block of `size` unpacked bytes, asking for no more than they fill.

    The header of a damaged block comes back as it is.
    """
    at = _place(header)
    if at is None:
        return header
    asked = header[at] & _SIZE
    enough = next(code for code in range(_LARGEST_CODE + 1) if _enough(code, size))
    if enough >= asked:
        return header
    changed = bytearray(header[:-_CRC])
    changed[at] = (header[at] & ~_SIZE) | enough
    return bytes(changed) + crc32(bytes(changed))


def _enough(code: int, size: int) -> bool:
    return code == _LARGEST_CODE or _dictionary(code) >= size


def _dictionary(code: int) -> int:
    if code >= _LARGEST_CODE:
        return 2**32 - 1
    return (2 | code & 1) << (code // 2 + 11)


def _place(header: bytes) -> int | None:
    """Return where in the header the size of its dictionary stands, if the header is sound."""
    end = header_length(header[0]) - _CRC if header else 0
    if end < _CRC or len(header) < end + _CRC or crc32(header[:end]) != header[end : end + _CRC]:
        return None
    at = 2
    try:
        for flag in _OPTIONAL_SIZES:
            if header[1] & flag:
                at += decode_mbi(header[at:end])[0]
        for _ in range((header[1] & _FILTERS) + 1):
            used, kind = decode_mbi(header[at:end])
            at += used
            used, length = decode_mbi(header[at:end])
            at += used
            if kind == _LZMA2 and length == 1 and at < end:
                return at
            at += length
    except XZError:
        pass
    return None
