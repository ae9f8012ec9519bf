"""Makes the FAT file system of an EFI system partition, with one boot loader in it."""

import struct

_SECTOR = 512
_SECTORS_PER_CLUSTER = 4
_CLUSTER = _SECTOR * _SECTORS_PER_CLUSTER
_FAT_SECTORS = 8  # room for 2730 clusters of 12 bits
_ROOT_ENTRIES = 512
_DIRECTORY = 0x10
_ARCHIVE = 0x20
_END = 0xFFF
# 2018-05-01 00:00, as FAT counts.
_DATE = (2018 - 1980) << 9 | 5 << 5 | 1


def efi_system(size: int, loader_name: str, loader: bytes) -> bytes:
    """Make a FAT12 file system that holds `loader` as /EFI/BOOT/`loader_name`.

    `size` is bytes, at most 5 MiB; only what is not zero at the end is left out of the answer.
    """
    table = [0xFF8, _END]
    clusters = bytearray()

    def store(content: bytes) -> int:
        first = len(table)
        count = max(1, -(-len(content) // _CLUSTER))
        table.extend([*range(first + 1, first + count), _END])
        clusters.extend(content.ljust(count * _CLUSTER, b"\0"))
        return first

    # Directories name the clusters of what they hold, and ".." those of what holds them.
    efi, boot = len(table), len(table) + 1
    file = boot + 1
    store(_dots(efi, 0) + _entry("BOOT", "", _DIRECTORY, boot, 0))
    stem, _, extension = loader_name.partition(".")
    store(_dots(boot, efi) + _entry(stem, extension, _ARCHIVE, file, len(loader)))
    store(loader)
    root = _entry("EFI", "", _DIRECTORY, efi, 0).ljust(_ROOT_ENTRIES * 32, b"\0")
    fat = _packed(table).ljust(_FAT_SECTORS * _SECTOR, b"\0")
    return _boot_sector(size // _SECTOR) + fat + fat + root + bytes(clusters)


def _boot_sector(sectors: int) -> bytes:
    parameters = struct.pack(
        "<3s8sHBHBHHBHHHII",
        b"\xeb\x3c\x90",
        b"mkfs.fat",
        _SECTOR,
        _SECTORS_PER_CLUSTER,
        1,  # the boot sector is all that is reserved
        2,
        _ROOT_ENTRIES,
        sectors,
        0xF8,  # a fixed disk
        _FAT_SECTORS,
        32,
        64,
        0,
        0,
    )
    extended = struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 0x2018_0501, b"EFI SYSTEM ", b"FAT12   ")
    return (parameters + extended).ljust(510, b"\0") + b"\x55\xaa"


def _dots(own: int, parent: int) -> bytes:
    return _entry(".", "", _DIRECTORY, own, 0) + _entry("..", "", _DIRECTORY, parent, 0)


def _entry(stem: str, extension: str, kind: int, cluster: int, size: int) -> bytes:
    name = stem.ljust(8).encode() + extension.ljust(3).encode()
    return struct.pack("<11sB10xHHHI", name, kind, 0, _DATE, cluster, size)


def _packed(table: list[int]) -> bytes:
    """Twelve bits an entry, two entries in three bytes."""
    entries = [*table, 0] if len(table) % 2 else table
    pairs = zip(entries[::2], entries[1::2], strict=True)
    return b"".join(struct.pack("<I", low | high << 12)[:3] for low, high in pairs)
