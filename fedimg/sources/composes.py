"""What a Pungi compose holds: its raw images, read from the places that the site trusts.

fedimg.intake.resolve decides which of them are published. Of what a message tells of a compose,
only the id is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from productmd.composeinfo import ComposeInfo
from productmd.images import Image, Images

from fedimg import config
from fedimg.exceptions import exhausted
from fedimg.images import FILE_NAME, RAW_SUFFIX, Architecture, RawImage, in_url
from fedimg.sources import http
from fedimg.sources.identifiers import COMPOSE_ID, FINISHED
from fedimg.sources.lookup import LookupRefused, LookupResult, NotFinished, SourceUnavailable
from fedimg.untrusted import json_bounds
from fedimg.untrusted.quoting import one_line

#: Pungi's words for a compose that will never be whole.
_BROKEN = ("DOOMED", "TERMINATED")
#: Most bytes that are read of each file. The images.json of a whole Fedora has about 1 MiB.
STATUS_LIMIT, _METADATA_LIMIT = 1024, 16 * 1024 * 1024
#: The deepest folder of a compose in which an image lies.
_DEEPEST = 10
_RAW = ("raw-xz", "raw.xz")
#: More raw images than any compose has; a whole Fedora has some dozens.
_MOST = 1000

_log = logging.getLogger(__name__)


class _RawImages(Images):  # type: ignore[misc]
    """The raw images of an images.json; of all others, of kinds yet unheard of, nothing is read.

    Productmd's own reading fails at one image that it does not know, and compares each with each.
    """

    def deserialize(self, data: dict[str, Any]) -> None:
        """Read what was parsed. Raises whatever productmd does of what is none of its own."""
        self.header.deserialize(data)
        self.compose.deserialize(data["payload"])
        self.raw: list[tuple[str, Image]] = []
        for variant, arches in data["payload"]["images"].items():
            found = [each for of_arch in arches.values() for each in of_arch]
            raw = [image for each in found if (image := self._one(each)) is not None]
            self.raw += [(variant, image) for image in sorted(raw, key=_path)]
        if len(self.raw) > _MOST:
            raise ValueError(f"{len(self.raw)} raw images")

    def _one(self, data: Any) -> Image | None:
        image = Image(self)
        try:
            if data["type"] not in _RAW or not data["path"].endswith(RAW_SUFFIX):
                return None
            image.deserialize(data)
        except Exception as error:
            # Of any kind, again; the others are none the worse.
            _log.info("an image of %.200r is left out: %.300r", self.compose.id, error)
            return None
        return image


Metadata = TypeVar("Metadata", ComposeInfo, _RawImages)


class ComposeUnavailable(SourceUnavailable):
    """A location did not answer; it has to be asked again."""


class ComposeNotFinished(NotFinished):
    """The compose is not finished, or at none of the locations yet."""


class ComposeRefused(LookupRefused):
    """There will never be images here: the compose failed, or its metadata cannot be its own."""


class Composes:
    """The composes at the site's locations, read anonymously."""

    def __init__(self, settings: config.Composes) -> None:
        self._settings = settings

    def find(self, entry: str) -> LookupResult:
        """What `compose:<id>` holds: all raw images of the chosen variants that EC2 could run.

        An image of which the metadata says something that cannot be is left out, and logged.
        Raises ComposeUnavailable, ComposeNotFinished or ComposeRefused.
        """
        kind, _, name = entry.partition(":")
        if kind != "compose" or not COMPOSE_ID.fullmatch(name):
            raise ComposeRefused(f"{entry!r:.200} is no compose:ID")
        place, status = self._place(name)
        times = _times(name, status)
        info = self._read(ComposeInfo, f"{place}/compose/metadata/composeinfo.json", name)
        images = self._read(_RawImages, f"{place}/compose/metadata/images.json", name)
        chosen = self._settings
        for what, value, allowed in (
            ("composes.types", info.compose.type, chosen.types),
            ("composes.release_types", info.release.type, chosen.release_types),
        ):
            if value not in allowed:
                _log.info("%s is left out: its %.80r is not in %s", entry, value, what)
                return LookupResult(entry, None, False, (), *times)
        raw = tuple(self._raw_images(name, place, images))
        return LookupResult(entry, None, False, raw, *times)

    def _place(self, name: str) -> tuple[str, http.Answer]:
        """The finished compose at the first location that has it: address and STATUS."""
        silent: list[str] = []
        unfinished: list[str] = []
        for location in self._settings.locations:
            place = f"{location}/{name}"
            try:
                answer = self._status(place)
                status = text(answer)
            except http.NotFound as error:
                unfinished.append(str(error))
                continue
            except http.NoAnswer as error:
                silent.append(str(error))
                continue
            if status in FINISHED:
                return place, answer
            if status in _BROKEN:
                raise ComposeRefused(f"{place} is {status}")
            unfinished.append(f"{place} is {one_line(status, 80)}")
        if silent:
            raise ComposeUnavailable("; ".join(silent))
        raise ComposeNotFinished("; ".join(unfinished) or "composes.locations is empty")

    def status(self, place: str) -> str:
        """Pungi's word on the compose at an address. Raises web.NotThere, web.NoAnswer."""
        return text(self._status(place))

    def _status(self, place: str) -> http.Answer:
        return http.get(f"{place}/STATUS", STATUS_LIMIT, self._settings.timeout)

    def _read(self, kind: Callable[[], Metadata], url: str, name: str) -> Metadata:
        try:
            found = http.get(url, _METADATA_LIMIT, self._settings.timeout)
        except http.NotFound as error:
            raise ComposeRefused(
                f"the compose is finished and lacks its metadata: {error}"
            ) from error
        except http.NoAnswer as error:
            raise ComposeUnavailable(str(error)) from error
        metadata = kind()
        try:
            http.parsed(found.body, partial(_load, metadata))
        except Exception as error:
            if exhausted(error):
                raise
            # Of any kind: productmd raises nearly anything on what is not its own.
            raise ComposeRefused(f"{url} is no metadata of a compose: {error!r:.300}") from error
        if metadata.compose.id != name:
            raise ComposeRefused(f"{url} is the metadata of {metadata.compose.id!r:.200}")
        return metadata

    def _raw_images(self, name: str, place: str, images: _RawImages) -> Iterable[RawImage]:
        chosen = self._settings
        for variant, image in images.raw:
            if chosen.variants and variant not in chosen.variants:
                continue
            if chosen.subvariants and image.subvariant not in chosen.subvariants:
                continue
            try:
                yield RawImage(
                    url=f"{place}/compose/{_safe(image.path)}",
                    architecture=Architecture.from_koji(str(image.arch)),
                    build=name,
                    source=f"compose-{name}",
                    size=image.size,
                    checksum=_checksum(image.checksums),
                )
            except (ValueError, TypeError, AttributeError) as error:
                # A field of another type than productmd looks at.
                _log.info("%s, %.200r is left out: %s", name, image.path, error)


def _load(metadata: ComposeInfo | _RawImages, body: bytes) -> None:
    """Fill in metadata from a file of it. Raises nearly anything on what is none."""
    content = body.decode()
    json_bounds.check(content)
    metadata.loads(content)


def text(answer: http.Answer) -> str:
    """What a STATUS file says."""
    return answer.body.decode(errors="replace").strip()


def _times(name: str, status: http.Answer) -> tuple[float, float | None]:
    """When a compose finished, by its STATUS or else by its id, and what time it is there."""
    found = COMPOSE_ID.fullmatch(name)
    assert found
    try:
        completed = http.seconds_of(status.modified)
    except ValueError:
        try:
            completed = datetime.strptime(found[1], "%Y%m%d").replace(tzinfo=UTC).timestamp()
        except ValueError as error:
            raise ComposeRefused(f"{name} has no date, and its STATUS no Last-Modified") from error
    try:
        return completed, http.seconds_of(status.date)
    except ValueError:
        return completed, None


def _path(image: Any) -> str:
    return str(image.path)


def _safe(path: str) -> str:
    parts = path.split("/")
    if len(parts) > _DEEPEST or not all(FILE_NAME.fullmatch(p) and p.strip(".") for p in parts):
        raise ValueError("its path is none that Pungi makes")
    return "/".join(map(in_url, parts))


def _checksum(checksums: dict[Any, Any]) -> str:
    digits = checksums.get("sha256")
    if not isinstance(digits, str):
        raise ValueError("it has no sha256")
    return f"sha256:{digits.lower()}"
