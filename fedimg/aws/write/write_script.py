"""Build the input of write_image.sh, and parse its output."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import urlsplit

from fedimg.aws.instance import scripts
from fedimg.formats import Format
from fedimg.images import Disk
from fedimg.sources.file_server import LONGEST_ADDRESS, Trusted

_NO_BUNDLE: Mapping[str, object] = MappingProxyType({"bundle": "no"})
_URL = re.compile(rf"https?://[!-~]{{1,{LONGEST_ADDRESS}}}")
_HOST = re.compile(r"[a-z0-9._:-]{1,253}")
_VOLUME = re.compile(r"vol-[0-9a-f]{8,17}")
_CHECKSUM = re.compile(r"md5:[0-9a-f]{32}|sha1:[0-9a-f]{40}|sha256:[0-9a-f]{64}")

_PROGRESS = re.compile(r"progress (\d{1,15})")
_DISK = re.compile(r"disk sha256:([0-9a-f]{64})")
_FOUND = re.compile(r"checksum (\w+:[0-9a-f]+)")
_WROTE = re.compile(r"wrote (\d{1,15})")
_FAILED = re.compile(
    r"failed (input|tools|device|download|checksum|decompression|volume): (.{1,4096})"
)
_MISSING_TOOL = re.compile(r"the utility AMI has no ([a-z0-9]+);")


@dataclass(frozen=True)
class Progress:
    """The number of written bytes of the uncompressed image."""

    written: int


@dataclass(frozen=True)
class Written:
    """The whole image is on the volume.

    `checksums` are those of the compressed file, each `ALGORITHM:HEX`, always with sha256.
    """

    disk: Disk
    checksums: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """The part of the script that failed first, and its message.

    `part` is input, tools, device, download, checksum, decompression or volume.
    """

    part: str
    reason: str

    def __str__(self) -> str:
        return f"{self.part}: {self.reason}"

    @property
    def missing_tool(self) -> str | None:
        """Return the tool that the utility AMI lacks; None when another part has failed."""
        match = _MISSING_TOOL.match(self.reason) if self.part == "tools" else None
        return match[1] if match else None


def write_command() -> str:
    """Return the command that runs the script as root, the same for every image and volume."""
    return scripts.as_root("bash", "write/make_bundle.sh", "write/write_image.sh")


def script_input(
    *,
    url: str,
    trusted: Trusted,
    volume: str,
    checksum: str | None,
    form: Format,
    compressed_size: int,
    uncompressed_size: int,
    idle: float,
    appear: float,
    bundle: Mapping[str, object] = _NO_BUNDLE,
) -> bytes:
    """Return the script's standard input.

    Args:
        url: the address of the image's file.
        trusted: the hosts that its host may redirect to.
        volume: id of the volume to write; it is attached, and blank.
        checksum: of the file, `ALGORITHM:HEX`, or None.
        form: the file's format.
        compressed_size: of the file, in bytes.
        uncompressed_size: of the image, in bytes.
        idle: seconds without data after which the download fails.
        appear: seconds to wait until the volume is a disk of the instance.
        bundle: the values for a bundle that is made of the same bytes, if one is.

    Raises:
        ValueError: the script would refuse a value.
    """
    hosts = [urlsplit(url).hostname or "", *map(str.lower, trusted.redirects)]
    plain = [*map(str.lower, trusted.plain_http)]
    for label, value, pattern in (
        *(("host", host, _HOST) for host in (*hosts, *plain)),
        ("image URL", url, _URL),
        ("volume id", volume, _VOLUME),
        ("checksum", checksum, _CHECKSUM),
    ):
        if value is not None and not pattern.fullmatch(value):
            raise ValueError(f'{label} "{value}" is malformed, and is not passed to an instance')
    if min(compressed_size, uncompressed_size, idle, appear) <= 0:
        raise ValueError(f"the sizes and timeouts for {url} have to be positive")
    values = {
        "url": url,
        "hosts": " ".join(hosts),
        "plain": " ".join(plain) or "-",
        "alone": "yes" if trusted.https_alone else "no",
        "volume": volume,
        "checksum": checksum or "none",
        "format": form.name,
        "compressed": compressed_size,
        "uncompressed": uncompressed_size,
        "idle": math.ceil(idle),
        "appear": math.ceil(appear),
        **bundle,
    }
    return scripts.values(values.items())


def progress(line: str) -> Progress | None:
    """Return the progress that one line of the script's output reports, or None."""
    match = _PROGRESS.fullmatch(line)
    return Progress(int(match[1])) if match else None


def verdict(output: str) -> Written | Failure | None:
    """Return the result at the end of the script's output; None when it ended without one."""
    checksums: list[str] = []
    disk = ""
    for line in output.splitlines():
        if match := _FOUND.fullmatch(line):
            checksums.append(match[1])
        elif match := _DISK.fullmatch(line):
            disk = match[1]
        elif match := _FAILED.fullmatch(line):
            return Failure(match[1], match[2].strip())
        elif disk and (match := _WROTE.fullmatch(line)):
            return Written(Disk(disk, int(match[1])), tuple(checksums))
    return None
