"""Images of other shapes, as far as they are made without their packages.

Follows lab/shapes/build.py, lab/shapes/__init__.py, lab/grub.py.
"""

import struct
import uuid
from pathlib import Path

import pytest

from lab import disk, grub
from lab.disk import MIB, SECTOR
from lab.machines.partitions import read_table
from lab.shapes import SHAPES
from lab.shapes.build import _Layout


@pytest.mark.parametrize("name", SHAPES)
def test_partitions_follow_each_other_up_to_the_second_table(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    layout = _Layout.of(shape, name)
    made = tmp_path / "disk"
    with made.open("wb") as file:
        file.truncate(shape.mib * MIB)
        disk.write_gpt(file, shape.mib * MIB // SECTOR, layout.rows(), b"", _id())
    table = read_table(made)
    assert table.kind == "gpt"
    assert [p.efi_system for p in table.partitions].count(True) == shape.uefi
    rows = layout.rows()
    assert [first for _, first, _ in rows[1:]] == [last + 1 for _, _, last in rows[:-1]]
    # The root is last, so that it can grow with its volume.
    assert rows[-1][1] * SECTOR == layout.root[0]
    assert (rows[-1][2] + 1) * SECTOR == (shape.mib - 1) * MIB


def test_grub_loads_its_core_from_the_partition_that_holds_it() -> None:
    code, core = grub.placed(bytes(440), bytes(2 * SECTOR), 2048)
    assert struct.unpack_from("<Q", code, 0x5C) == (2048,)
    assert struct.unpack_from("<Q", core, SECTOR - 12) == (2049,)
    assert (len(code), len(core)) == (440, 2 * SECTOR)


def _id() -> uuid.UUID:
    return uuid.UUID(int=1)
