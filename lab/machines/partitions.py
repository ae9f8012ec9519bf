"""Reads a disk's boot sector and partition table, MBR or GPT; what they mean is boot's matter."""

import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
BOOT_CODE_BYTES = 440
EFI_SYSTEM = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")

_MBR_GPT = 0xEE
_MBR_EFI = 0xEF
_MBR_EXTENDED = (0x05, 0x0F, 0x85)
# A GPT has 128 entries; a header that claims far more is garbage.
_MOST_ENTRIES = 1024


@dataclass(frozen=True)
class Partition:
    """`offset` and `size` are bytes; `number` counts from 1, as in /dev/nvme0n1p1."""

    number: int
    offset: int
    size: int
    efi_system: bool


@dataclass(frozen=True)
class Table:
    """The partition table of the first sectors. `kind` is mbr, gpt or none."""

    signed: bool  # the boot sector ends in 55 AA
    boot_code: bool  # and its code is more than zeros
    kind: str
    partitions: tuple[Partition, ...]


def read_table(disk: Path) -> Table:
    """Read the partition table of `disk`. Like firmware, leave out entries that lie outside the
    disk.
    """
    size = disk.stat().st_size
    with disk.open("rb") as file:
        sector = file.read(SECTOR)
        if len(sector) < SECTOR or sector[510:512] != b"\x55\xaa":
            return Table(signed=False, boot_code=False, kind="none", partitions=())
        boot_code = any(sector[:BOOT_CODE_BYTES])
        rows = [struct.unpack_from("<BxxxBxxxII", sector, 446 + 16 * i) for i in range(4)]
        if any(kind == _MBR_GPT for _, kind, _, _ in rows):
            partitions = _gpt(file.read(SECTOR), disk, size)
            return Table(True, boot_code, "gpt" if partitions else "none", partitions)
    found = [
        Partition(number, first * SECTOR, count * SECTOR, kind == _MBR_EFI)
        for number, (active, kind, first, count) in enumerate(rows, start=1)
        if active in (0x00, 0x80) and kind and kind not in _MBR_EXTENDED and first and count
    ]
    inside = tuple(p for p in found if p.offset < size)
    return Table(True, boot_code, "mbr" if inside else "none", inside)


def _gpt(header: bytes, disk: Path, size: int) -> tuple[Partition, ...]:
    if len(header) < SECTOR or header[:8] != b"EFI PART":
        return ()
    first_entry, count, entry_bytes = struct.unpack_from("<QII", header, 72)
    if not 0 < count <= _MOST_ENTRIES or not 128 <= entry_bytes <= 4096:
        return ()
    with disk.open("rb") as file:
        file.seek(first_entry * SECTOR)
        entries = file.read(count * entry_bytes)
    found = []
    for index in range(len(entries) // entry_bytes):
        at = index * entry_bytes
        kind = uuid.UUID(bytes_le=entries[at : at + 16])
        first, last = struct.unpack_from("<QQ", entries, at + 32)
        if kind.int and first and last >= first and first * SECTOR < size:
            length = (last - first + 1) * SECTOR
            found.append(Partition(index + 1, first * SECTOR, length, kind == EFI_SYSTEM))
    return tuple(found)
