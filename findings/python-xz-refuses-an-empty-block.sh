#!/bin/bash
# python-xz 0.7.0 takes a sound .xz file for damaged when one of its blocks holds nothing.
#
# An index of the .xz format gives each block's packed size, which cannot be 0, and its unpacked size,
# which may be (The .xz File Format 1.2.1, section 4.3). xz and Python's lzma read a file with such a
# block; python-xz, which is there to read .xz files at any place, refuses the whole file with
# "index record uncompressed size", when it is opened. It can write one, too: its own
# create_xz_index_footer makes the index that its parse_xz_index refuses.
#
# Seen on 2026-11-28 with python-xz 0.7.0, Python 3.11, xz 5.4.1. Exits 0 while python-xz behaves so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check python-xz==0.7.0
"$folder/venv/bin/python" - "$folder/image.xz" <<'PYTHON'
import lzma
import subprocess
import sys

import xz
from xz.common import create_xz_header, create_xz_index_footer, parse_xz_index

packed = lzma.compress(b"image")  # one block: header 12 bytes, index and footer at the end
index_size = (int.from_bytes(packed[-8:-4], "little") + 1) * 4
((block_size, unpacked_size),) = parse_xz_index(packed[-12 - index_size : -12])
block = packed[12 : -12 - index_size]
# The same filters, LZMA2's mark of its end, three bytes that fill it up, and the CRC64 of nothing.
empty = block[: (block[0] + 1) * 4] + bytes(4) + bytes(8)
index = create_xz_index_footer(
    lzma.CHECK_CRC64, [(block_size, unpacked_size), (len(empty) - 3, 0)]
)
path = sys.argv[1]
with open(path, "wb") as file:
    file.write(create_xz_header(lzma.CHECK_CRC64) + block + empty + index)

tested = subprocess.run(["xz", "--test", path]).returncode
listed = subprocess.run(
    ["xz", "--list", "--robot", path], capture_output=True, text=True, check=True
).stdout.splitlines()[-1].split("\t")
print("xz --test: status", tested, "- blocks that xz --list counts:", listed[2])
with lzma.open(path) as file:
    content = file.read()
print("lzma:", content)
try:
    with xz.open(path) as file:
        refusal = f"read {file.read()!r}"
except xz.XZError as error:
    refusal = str(error)
print("python-xz:", refusal)
assert tested == 0 and content == b"image", "the file is not sound"
assert refusal == "index record uncompressed size", "it has changed"
PYTHON
