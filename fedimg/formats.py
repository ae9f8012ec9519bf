"""Define the formats of raw images' files: the suffix of each, and the tool that unpacks it.

fedimg.aws.write unpacks them: `image_size` measures a file, `stream_decoders` and `unpacking` read
it in the worker, and write_image.sh on a utility instance.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A format by its file names' `suffix`, with the `tool` of a utility instance that unpacks it.

    The `tool` is empty where the file is the image itself.
    """

    suffix: str
    tool: str

    @property
    def name(self) -> str:
        """Return the format's name in write_image.sh: the suffix without its first dot."""
        return self.suffix[1:]


XZ = Format(".raw.xz", "xz")
ZSTD = Format(".raw.zst", "zstd")
GZIP = Format(".raw.gz", "gzip")
PLAIN = Format(".raw", "")

#: In the order of preference, by which one is published of an entry's image in several formats.
#: An .xz file tells its size and is unpacked by several threads; a plain one is long to download.
FORMATS = (XZ, ZSTD, GZIP, PLAIN)
#: The suffixes, for messages.
SUFFIXES = ", ".join(each.suffix for each in FORMATS[:-1]) + f" or {FORMATS[-1].suffix}"


def format_of(file_name: str) -> Format | None:
    """Return the format of a raw image's file by its name; None when it is not a raw image's."""
    return next((each for each in FORMATS if file_name.endswith(each.suffix)), None)


def without_suffix(file_name: str) -> str:
    """Return the image's name: its file's, without the suffix of the format."""
    found = format_of(file_name)
    return file_name.removesuffix(found.suffix) if found else file_name
