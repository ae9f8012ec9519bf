"""Tell by the record which images follow each other: their release, and their order within it.

The record has what Koji or a compose calls an image: a build's name-version-release or a compose's
id. A scratch build and an upload belong to no release.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: A compose's id, as productmd makes it: short name, version, type of release, date, type and
#: number of the compose; such as Fedora-Cloud-43-20261101.0 or Fedora-Rawhide-20261101.n.0.
_COMPOSE = re.compile(
    r".+?-(?P<version>[^-]+)(?:-(?:updates|updates-testing|eus|aus|els|e4s|tus|fast))?"
    r"-(?P<date>[0-9]{8})(?:\.[a-z]+)?\.(?P<respin>[0-9]{1,6})"
)
_SOURCE = re.compile(r"(?P<kind>build|compose|task|url)-(?P<id>.+)")
#: What may follow an image's version and release in its name.
_ARCHITECTURE = r"(?:\.(?:x86_64|aarch64|arm64|noarch))?"
#: An image's name as Koji makes it: what it is, a version, a release, an architecture.
_NAMED = re.compile(
    rf"(?P<stem>.+)-(?P<version>[0-9][0-9.]*|Rawhide)-[^-]+?(?P<architecture>{_ARCHITECTURE})"
)


@dataclass(frozen=True)
class Edition:
    """An image's place in its release.

    Images of one `series` follow each other: they have the same kind of source (build, compose),
    and the same name but for the number of the build or compose. `order` is the build's id, or the
    compose's date and number. `release` is a version such as 43 or Rawhide.
    """

    series: tuple[str, str]
    order: tuple[int, ...]
    release: str


def edition(image: str, source: str | None, build: str | None) -> Edition | None:
    """Return the edition of an image, or None if the record does not tell it.

    `source` is build-<id>, compose-<id>, task-<id> or url-<hash>; `build` is the build's
    name-version-release or the compose's id. Scratch builds and uploads have no edition.
    """
    found = _SOURCE.fullmatch(source or "")
    if not found or not build:
        return None
    order: tuple[int, ...]
    if found["kind"] == "compose":
        compose = _COMPOSE.fullmatch(build)
        if not compose:
            return None
        version, order = compose["version"], (int(compose["date"]), int(compose["respin"]))
    elif found["kind"] == "build" and found["id"].isdecimal() and build.count("-") >= 2:
        version, order = build.rsplit("-", 2)[1], (int(found["id"]),)
    else:
        return None
    numbered = re.compile(rf"-{re.escape(version)}-[^-]+?(?={_ARCHITECTURE}$)")
    stem, places = numbered.subn(f"-{version}", image)
    # The name does not have the version where the record says that it is.
    return Edition((found["kind"], stem), order, version) if places == 1 else None


def edition_by_name(image: str, source: str, order: float) -> Edition | None:
    """Return the edition that an image of no release has by its name alone; None if it tells none.

    `source` is task-<id> or url-<hash>; of two images, the one with the greater `order`, a time in
    seconds, is the newer one.
    """
    found = _SOURCE.fullmatch(source)
    named = _NAMED.fullmatch(image)
    if not found or not named:
        return None
    stem = f"{named['stem']}-{named['version']}{named['architecture']}"
    return Edition((found["kind"], stem), (int(order * 1e6),), named["version"])


def belongs_to_no_release(source: str | None) -> bool:
    """Return whether an image is of a scratch build or an upload, which are no release's newest."""
    found = _SOURCE.fullmatch(source or "")
    return found is not None and found["kind"] in ("task", "url")
