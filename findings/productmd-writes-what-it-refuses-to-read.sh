#!/bin/bash
# productmd 1.51 writes an images.json that productmd 1.51 refuses to read.
#
# A file of format 1.0 needs no "subvariant" (1.1 brought it): two images of one type and
# one architecture (a KDE and a Workstation disk) differ by their paths alone, and productmd reads
# both. When it writes them again, it always writes format 1.2, with "subvariant": "" for each. Under
# 1.2 that field has to tell images apart, so that the next reader refuses the whole file:
# "shares all UNIQUE_IMAGE_ATTRIBUTES … This is forbidden." Whoever rewrites such a file, to filter or
# to merge it, learns of it only when somebody reads it.
#
# Beside it: one image of a "format" that productmd does not know (raw.zst) makes the file as a whole
# unreadable, its other images included, while a header that announces format 2.0, which does not
# exist, is read without a word.
#
# Seen on 2026-11-28 with productmd 1.51, Python 3.11. Exits 0 while productmd behaves so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check productmd==1.51
"$folder/venv/bin/python" - <<'PYTHON'
import json

from productmd.images import Images


def compose(version, *images):
    """An images.json of one variant with images of x86_64."""
    return json.dumps(
        {
            "header": {"type": "productmd.images", "version": version},
            "payload": {
                "compose": {
                    "date": "20160101", "id": "Example-1-20160101.0", "respin": 0,
                    "type": "production",
                },
                "images": {"Spins": {"x86_64": list(images)}},
            },
        }
    )


def image(name, digit, **more):
    return {
        "arch": "x86_64", "bootable": False, "checksums": {"sha256": digit * 64},
        "disc_count": 1, "disc_number": 1, "format": "raw.xz", "implant_md5": None,
        "mtime": 1, "path": f"Spins/x86_64/images/{name}.raw.xz", "size": 5, "type": "raw-xz",
        "volume_id": None, **more,
    }


def read(text):
    images = Images()
    images.loads(text)
    return images


def refusal(text):
    try:
        read(text)
    except ValueError as error:
        return str(error)
    return ""


old = read(compose("1.0", image("KDE", "0"), image("Workstation", "1")))
print("format 1.0, two images: read")
written = old.dumps()
print("written again as format", json.loads(written)["header"]["version"])
again = refusal(written)
print("read again:", again or "read")

known = image("Cloud", "2", subvariant="Cloud_Base")
unknown = image("Cloud-zst", "3", subvariant="Cloud_Base", format="raw.zst")
mixed = refusal(compose("1.2", known, unknown))
print("format 1.2, one image of a new kind beside a known one:", mixed or "read")
future = refusal(compose("2.0", known))
print("format 2.0, which does not exist:", future or "read")

assert "This is forbidden" in again and "raw.zst" in mixed and not future, "it has changed"
PYTHON
