"""Disk images as VM Import takes them (RAW, VHD, VMDK), unpacked into a sparse raw file."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from lab.ec2 import disks

SECTOR = 512
FOOTER_HAS_IT = 0xFFFFFFFFFFFFFFFF  # a streamed VMDK knows its grain directory only at the end
COMPRESSED = 1 << 16
ZERO_GRAINS = 1 << 2  # a grain at sector 1 is one of zeros
FIXED_VHD = 2
STEP = 1 << 16


class NotADisk(Exception):
    """The bytes are not of the format they are said to be; the text is VM Import's."""


def unpack(name: str, data: bytes, path: Path) -> int:
    """Write the disk's bytes to `path`, a whole number of GiB long; that number.

    Raises NotADisk.
    """
    match name.lower():
        case "raw":
            size, pieces = len(data), _slices(data)
        case "vhd":
            content = _fixed_vhd(data)
            size, pieces = len(content), _slices(content)
        case "vmdk":
            size, pieces = _vmdk(data)
        case _:
            raise NotADisk(f"ClientError: Unsupported disk format {name}")
    gib = max(1, -(-size // disks.GIB))
    disks.create(path, gib * disks.GIB)
    with path.open("r+b") as file:
        for at, piece in pieces:
            if piece.count(0) != len(piece):
                file.seek(at)
                file.write(piece)
    return gib


def _slices(data: bytes) -> Iterator[tuple[int, bytes]]:
    return ((at, data[at : at + STEP]) for at in range(0, len(data), STEP))


def _fixed_vhd(data: bytes) -> bytes:
    footer = data[-SECTOR:]
    if footer[:8] != b"conectix" or struct.unpack_from(">I", footer, 60)[0] != FIXED_VHD:
        raise NotADisk("ClientError: Disk validation failed [Unsupported VHD file format]")
    return data[:-SECTOR]


def _vmdk(data: bytes) -> tuple[int, Iterator[tuple[int, bytes]]]:
    """Size in bytes and the grains of a sparse or a stream-optimized VMDK (VMware's format 5.0)."""
    if data[:4] != b"KDMV":
        raise NotADisk("ClientError: Disk validation failed [Unsupported VMDK file format]")
    flags, capacity, grain = struct.unpack_from("<IQQ", data, 8)
    per_table, directory = _tables(data, 0)
    if directory == FOOTER_HAS_IT:
        footer = len(data) - 2 * SECTOR
        if data[footer : footer + 4] != b"KDMV":
            raise NotADisk("ClientError: Disk validation failed [VMDK file is truncated]")
        per_table, directory = _tables(data, footer)
    if not grain or not per_table:
        raise NotADisk("ClientError: Disk validation failed [Unsupported VMDK file format]")

    def grains() -> Iterator[tuple[int, bytes]]:
        span = grain * SECTOR
        for number in range(-(-capacity // (grain * per_table))):
            table = struct.unpack_from("<I", data, directory * SECTOR + 4 * number)[0]
            if table == 0:
                continue
            entries = struct.unpack_from(f"<{per_table}I", data, table * SECTOR)
            for place, sector in enumerate(entries):
                if sector > (1 if flags & ZERO_GRAINS else 0):
                    at = (number * per_table + place) * span
                    yield at, _grain(data, sector * SECTOR, span, bool(flags & COMPRESSED))

    return capacity * SECTOR, grains()


def _tables(data: bytes, header: int) -> tuple[int, int]:
    """Entries a grain table, and the sector of the grain directory."""
    per_table, _, directory = struct.unpack_from("<IQQ", data, header + 44)
    return int(per_table), int(directory)


def _grain(data: bytes, at: int, span: int, compressed: bool) -> bytes:
    if not compressed:
        return data[at : at + span]
    # A compressed grain is behind its logical sector (8 bytes) and its length (4 bytes).
    length = struct.unpack_from("<I", data, at + 8)[0]
    return zlib.decompress(data[at + 12 : at + 12 + length])
