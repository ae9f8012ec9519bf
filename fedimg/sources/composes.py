"""Read the raw images of a Pungi compose from the locations that the site trusts.

fedimg.intake.image_selection decides which of them are published. Of a message about a compose,
only the id is used.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from productmd.composeinfo import ComposeInfo
from productmd.images import Image, Images

from fedimg import config
from fedimg.exceptions import exhausted
from fedimg.formats import FORMATS, XZ, format_of
from fedimg.images import FILE_NAME, RELEASES, SUBVARIANT, Architecture, RawImage, in_url
from fedimg.sources import http
from fedimg.sources.identifiers import COMPOSE_ID, FINISHED
from fedimg.sources.lookup import (
    LeftOut,
    LookupRefused,
    LookupResult,
    NotFinished,
    SourceUnavailable,
)
from fedimg.untrusted import json_bounds
from fedimg.untrusted.quoting import one_line, quoted

#: Pungi's states of a compose that will never finish.
_FAILED = ("DOOMED", "TERMINATED")
#: Largest files that are read, in bytes. The images.json of a whole Fedora has about 1 MiB.
STATUS_LIMIT, _METADATA_LIMIT = 1024, 16 * 1024 * 1024
#: Most parts of an image's path.
_MOST_PATH_PARTS = 10
#: The suffixes by what metadata calls a format: `raw.xz`, and `raw-xz` in a type of older composes.
_SUFFIXES = {
    name: each.suffix for each in FORMATS for name in (each.name, each.name.replace(".", "-"))
}
#: The type and the format under which productmd reads any raw image: its lists lack most of them.
_AS_READ = {"type": "raw-xz", "format": XZ.name}
#: Most raw images of a compose; a whole Fedora has some dozens.
_MOST = 1000

_log = logging.getLogger(__name__)


class _RawImages(Images):  # type: ignore[misc]
    """The raw images of an images.json, by format and file name, whatever their types.

    The others are in `left_out`.

    productmd's own reader fails at one image of an unknown type, and compares all pairs of images.
    """

    def deserialize(self, data: dict[str, Any]) -> None:
        """Read parsed JSON. Raises any kind of error, as productmd does, for invalid metadata."""
        self.header.deserialize(data)
        self.compose.deserialize(data["payload"])
        self.raw: list[tuple[str, Image]] = []
        self.left_out: list[LeftOut] = []
        for variant, arches in data["payload"]["images"].items():
            entries = [entry for of_arch in arches.values() for entry in of_arch]
            raw = [image for entry in entries if (image := self._one(entry)) is not None]
            self.raw += [(variant, image) for image in sorted(raw, key=_path)]
        if len(self.raw) > _MOST:
            raise ValueError(f"it lists {len(self.raw)} raw images, more than {_MOST}")

    def _one(self, data: Any) -> Image | None:
        image = Image(self)
        try:
            # Older composes say the format in the type.
            said = data.get("format", data["type"])
            if reason := _not_raw(said, data["path"]):
                self.left_out.append(LeftOut(_named(data), reason))
                return None
            image.deserialize({**data, **_AS_READ})
        except Exception as error:
            if exhausted(error):
                raise
            # productmd raises any kind of error; the other images are still usable.
            reason = one_line(str(error) or type(error).__name__, 300)
            self.left_out.append(LeftOut(_named(data), f"its metadata is invalid: {reason}"))
            return None
        return image


def _not_raw(said: Any, path: str) -> str | None:
    """Return why a file is not a raw image by its format in the metadata and its path, or None."""
    suffix = _SUFFIXES.get(said) if isinstance(said, str) else None
    found = format_of(path)
    if suffix is None:
        though = f", though its name ends in {found.suffix}" if found else ""
        return f"its format is {one_line(str(said), 80)}{though}"
    if found is None or found.suffix != suffix:
        return f"its name does not end in {suffix}"
    return None


Metadata = TypeVar("Metadata", ComposeInfo, _RawImages)


class ComposeUnavailable(SourceUnavailable):
    """A location did not answer; a later try may succeed."""


class ComposeNotFinished(NotFinished):
    """The compose is not finished, or not at any location yet."""


class ComposeRefused(LookupRefused):
    """The compose will never have images: it failed, or its metadata is invalid."""


class Composes:
    """The composes at the site's locations, which are read anonymously."""

    def __init__(self, settings: config.Composes) -> None:
        self._settings = settings

    def find(self, entry: str) -> LookupResult:
        """Return all raw images of `compose:<id>` that are of the chosen variants and that EC2 can
        run.

        An image with invalid metadata is left out, and logged.
        Raises ComposeUnavailable, ComposeNotFinished or ComposeRefused.
        """
        prefix, _, name = entry.partition(":")
        if prefix != "compose" or not COMPOSE_ID.fullmatch(name):
            raise ComposeRefused(f"{quoted(entry, 200)} is not of the form compose:ID")
        url, status = self._find_location(name)
        times = _times(name, status)
        info = self._read(ComposeInfo, f"{url}/compose/metadata/composeinfo.json", name)
        images = self._read(_RawImages, f"{url}/compose/metadata/images.json", name)
        chosen = self._settings
        left_out = list(images.left_out)
        release = _release(info.release.version)
        raw = tuple(self._raw_images(name, url, images, left_out, release))
        for setting, value, allowed in (
            ("composes.types", info.compose.type, chosen.types),
            ("composes.release_types", info.release.type, chosen.release_types),
        ):
            if value not in allowed:
                reason = f"the compose's {one_line(str(value), 80)} is not in {setting}"
                left_out += [LeftOut(image.file_name, reason, by_setting=True) for image in raw]
                raw = ()
        return LookupResult(entry, None, False, raw, *times, tuple(left_out))

    def _find_location(self, name: str) -> tuple[str, http.Answer]:
        """Return URL and STATUS of a finished compose at the first location that has it."""
        failures: list[str] = []
        unfinished: list[str] = []
        for location in self._settings.locations:
            url = f"{location}/{name}"
            try:
                answer = self._status(url)
                status = text(answer)
            except http.NotFound as error:
                unfinished.append(str(error))
                continue
            except http.NoAnswer as error:
                failures.append(str(error))
                continue
            if status in FINISHED:
                return url, answer
            if status in _FAILED:
                raise ComposeRefused(f"the compose {url} failed: its STATUS is {status}")
            unfinished.append(f"{url} is not finished: its STATUS is {one_line(status, 80)}")
        if failures:
            raise ComposeUnavailable("; ".join(failures))
        raise ComposeNotFinished(
            "; ".join(unfinished) or "composes.locations in the configuration is empty"
        )

    def status(self, url: str) -> str:
        """Return the STATUS of the compose at a URL. Raises http.NotFound, http.NoAnswer."""
        return text(self._status(url))

    def _status(self, url: str) -> http.Answer:
        return http.get(f"{url}/STATUS", STATUS_LIMIT, self._settings.timeout)

    def _read(self, make: Callable[[], Metadata], url: str, name: str) -> Metadata:
        try:
            answer = http.get(url, _METADATA_LIMIT, self._settings.timeout)
        except http.NotFound as error:
            raise ComposeRefused(
                f"the compose is finished, but its metadata is missing: {error}"
            ) from error
        except http.NoAnswer as error:
            raise ComposeUnavailable(str(error)) from error
        metadata = make()
        try:
            http.parsed(answer.body, partial(_load, metadata))
        except Exception as error:
            if exhausted(error):
                raise
            # productmd raises any kind of error for invalid metadata.
            reason = str(error) or type(error).__name__
            raise ComposeRefused(
                f"{url} is not valid metadata of a compose: {reason:.300}"
            ) from error
        if metadata.compose.id != name:
            raise ComposeRefused(
                f"{url} is the metadata of another compose: {quoted(metadata.compose.id, 200)}"
            )
        return metadata

    def _raw_images(
        self,
        name: str,
        compose_url: str,
        images: _RawImages,
        left_out: list[LeftOut],
        release: int | None,
    ) -> Iterable[RawImage]:
        chosen = self._settings
        for variant, image in images.raw:
            file = _named({"path": image.path})
            try:
                found = RawImage(
                    url=f"{compose_url}/compose/{_safe(image.path)}",
                    architecture=Architecture.from_koji(str(image.arch)),
                    build=name,
                    source=f"compose-{name}",
                    size=image.size,
                    checksum=_checksum(image.checksums),
                    release=release,
                    subvariant=_subvariant(image.subvariant),
                )
            except (ValueError, TypeError, AttributeError) as error:
                # productmd does not check the types of all fields.
                left_out.append(LeftOut(file, one_line(str(error), 300)))
                continue
            for setting, value, allowed in (
                ("composes.variants", variant, chosen.variants),
                ("composes.subvariants", image.subvariant, chosen.subvariants),
            ):
                if allowed and value not in allowed:
                    reason = f'its "{one_line(str(value), 80)}" is not in {setting}'
                    left_out.append(LeftOut(file, reason, by_setting=True))
                    break
            else:
                yield found


def _load(metadata: ComposeInfo | _RawImages, body: bytes) -> None:
    """Parse the bytes of a metadata file. Raises any kind of error for an invalid one."""
    content = body.decode()
    json_bounds.refuse_unbounded(content)
    metadata.loads(content)


def text(answer: http.Answer) -> str:
    """Return the text of a STATUS file."""
    return answer.body.decode(errors="replace").strip()


def _times(name: str, status: http.Answer) -> tuple[float, float | None]:
    """Return when a compose finished, by its STATUS or else by its id, and its server's time."""
    found = COMPOSE_ID.fullmatch(name)
    assert found
    try:
        completed = http.seconds_of(status.modified)
    except ValueError:
        try:
            completed = datetime.strptime(found[1], "%Y%m%d").replace(tzinfo=UTC).timestamp()
        except ValueError as error:
            raise ComposeRefused(
                f"the completion time of {name} is unknown: its id has no date, and its STATUS no "
                "Last-Modified"
            ) from error
    try:
        return completed, http.seconds_of(status.date)
    except ValueError:
        return completed, None


def _named(data: Any) -> str:
    """Return the file name of an image's metadata, of any kind, in one line."""
    path = data.get("path") if isinstance(data, dict) else None
    return one_line(path.rsplit("/", 1)[-1], 200) if isinstance(path, str) else "an unnamed image"


def _path(image: Any) -> str:
    return str(image.path)


def _release(version: Any) -> int | None:
    """Return the number of a release; None for a version without one, such as Rawhide."""
    text = str(version)
    number = int(text) if re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) else 0
    return number if 0 < number < RELEASES else None


def _subvariant(said: Any) -> str | None:
    """Return an image's subvariant; None where the metadata names none, or no valid one."""
    return said if isinstance(said, str) and SUBVARIANT.fullmatch(said) else None


def _safe(path: str) -> str:
    parts = path.split("/")
    if len(parts) > _MOST_PATH_PARTS or not all(
        FILE_NAME.fullmatch(p) and p.strip(".") for p in parts
    ):
        raise ValueError("its path is not one that Pungi makes")
    return "/".join(map(in_url, parts))


def _checksum(checksums: dict[Any, Any]) -> str:
    digits = checksums.get("sha256")
    if not isinstance(digits, str):
        raise ValueError("its metadata has no sha256 checksum")
    return f"sha256:{digits.lower()}"
