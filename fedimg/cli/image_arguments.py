"""Read the image of a command's arguments: its URL, architecture and checksum."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from fedimg.cli.app import CommandRefused, ExitCode

if TYPE_CHECKING:
    from fedimg.images import Architecture, RawImage

_ARCHITECTURE = re.compile(r"(?<![A-Za-z0-9_])(x86_64|aarch64|arm64)(?![A-Za-z0-9_])")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
#: How many seconds an upload waits for the file server to tell the image's size.

URLArgument = Annotated[
    str,
    typer.Argument(
        help="URL of a raw image that EC2 can download: NAME.raw.xz, .raw.zst, .raw.gz or .raw."
    ),
]
ArchOption = Annotated[
    str | None,
    typer.Option(help="x86_64 or aarch64; by default as the file name says, otherwise x86_64."),
]


def image_of(url: str, arch: str | None, checksum: str | None) -> RawImage:
    """Return the image of a command's arguments. Raises CommandRefused if they contradict."""
    from fedimg.images import Architecture, RawImage

    in_name = {architecture_of(name) for name in _ARCHITECTURE.findall(url.rsplit("/", 1)[-1])}
    option = architecture_of(arch) if arch else None
    if option and in_name and option not in in_name:
        raise CommandRefused(
            ExitCode.UNUSABLE,
            f"--arch {arch} contradicts the file name, which says {', '.join(sorted(in_name))}",
        )
    architecture = option or (in_name.pop() if len(in_name) == 1 else Architecture.X86_64)
    if checksum and _SHA256.fullmatch(checksum):
        checksum = f"sha256:{checksum}"
    try:
        return RawImage.at(url, architecture, checksum.lower() if checksum else None)
    except ValueError as error:
        raise CommandRefused(ExitCode.UNUSABLE, str(error)) from error


def architecture_of(name: str) -> Architecture:
    """Return the architecture that Koji or EC2 calls so. Raises CommandRefused if none is."""
    from fedimg.images import Architecture

    try:
        return Architecture.from_koji(name)
    except ValueError as error:
        raise CommandRefused(
            ExitCode.UNUSABLE, f'unknown architecture "{name}": use x86_64 or aarch64'
        ) from error
