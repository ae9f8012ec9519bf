"""Write the manifest of a bundle, version 2007-10-10, and sign it."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape

from fedimg import __version__
from fedimg.aws.bundle.keys import BundleKeys
from fedimg.aws.bundle.stream import Bundled, ContentKey
from fedimg.images import Architecture

_VERSION = "2007-10-10"
_CIPHER = "AES-128-CBC"
_PART = re.compile(rb"<filename>([^<]{1,300})</filename>")
#: The longest manifest that is read, in bytes: about 1 KiB is for each 60 MiB of a bundle.
LONGEST = 1024 * 1024


def part_name(name: str, index: int) -> str:
    """Return the name of a part's file; the first part has the number 0."""
    return f"{name}.part.{index:02d}"


def manifest_name(name: str) -> str:
    """Return the name of the manifest's file."""
    return f"{name}.manifest.xml"


def listed_parts(manifest: bytes) -> set[str]:
    """Return the names of the parts' files that the text of a manifest lists."""
    return {name.decode(errors="replace") for name in _PART.findall(manifest)}


def manifest(
    bundled: Bundled,
    architecture: Architecture,
    account: str,
    keys: BundleKeys,
    content_key: ContentKey,
) -> bytes:
    """Return the manifest of a bundle that an account, by its number, owns.

    No kernel is in it: each region has its own, which RegisterImage names.
    """
    machine = _element("machine_configuration", _text("architecture", architecture))
    image = _image(bundled, account, keys, content_key)
    # The signature is of these two elements as they stand in the file, without a space between.
    signature = keys.sign((machine + image).encode())
    bundler = _text("name", "fedimg") + _text("version", __version__) + _text("release", "1")
    body = (
        _text("version", _VERSION)
        + _element("bundler", bundler)
        + machine
        + image
        + _text("signature", signature)
    )
    return f'<?xml version="1.0"?><manifest>{body}</manifest>\n'.encode()


def _image(bundled: Bundled, account: str, keys: BundleKeys, content_key: ContentKey) -> str:
    """Return the element of the image; EC2 expects its elements in this order."""
    parts = "".join(
        _element(
            "part",
            _text("filename", part_name(bundled.name, index)) + _digest(part.sha1),
            index=index,
        )
        for index, part in enumerate(bundled.parts)
    )
    return _element(
        "image",
        _text("name", bundled.name)
        + _text("user", account)
        + _text("type", "machine")
        + _digest(bundled.digest)
        + _text("size", bundled.size)
        + _text("bundled_size", bundled.bundled_size)
        + _text("ec2_encrypted_key", keys.for_ec2(content_key.key), algorithm=_CIPHER)
        + _text("user_encrypted_key", keys.for_user(content_key.key), algorithm=_CIPHER)
        + _text("ec2_encrypted_iv", keys.for_ec2(content_key.iv))
        + _text("user_encrypted_iv", keys.for_user(content_key.iv))
        + _element("parts", parts, count=len(bundled.parts)),
    )


def _digest(sha1: str) -> str:
    return _text("digest", sha1, algorithm="SHA1")


def _text(name: str, value: object, **attributes: object) -> str:
    return _element(name, escape(str(value)), **attributes)


def _element(name: str, content: str, **attributes: object) -> str:
    given = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f"<{name}{given}>{content}</{name}>"
