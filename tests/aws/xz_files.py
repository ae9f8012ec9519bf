"""Build valid .xz files that no compressor at hand produces."""

import lzma

from xz.common import create_xz_header, create_xz_index_footer, parse_xz_index

_HEADER = 12
_CRC64_OF_NOTHING = bytes(8)
#: LZMA2's mark of its end, filled up to four bytes (The .xz File Format, section 3.3).
_NO_CHUNKS = bytes(4)


def with_a_block_of_nothing(data: bytes) -> bytes:
    """Return `data` in one block, followed in the same stream by an empty block."""
    check = lzma.CHECK_CRC64
    packed = lzma.compress(data, check=check, preset=0)
    index_size = (int.from_bytes(packed[-8:-4], "little") + 1) * 4
    ((block_size, _),) = parse_xz_index(packed[-_HEADER - index_size : -_HEADER])
    block = packed[_HEADER : -_HEADER - index_size]
    begin = block[: (block[0] + 1) * 4]
    empty = begin + _NO_CHUNKS + _CRC64_OF_NOTHING
    # The mark is one byte; what fills it up is not counted.
    records = [(block_size, len(data)), (len(empty) - 3, 0)]
    return create_xz_header(check) + block + empty + create_xz_index_footer(check, records)
