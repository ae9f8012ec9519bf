"""Read advisories in OSV's format, as a zip or a folder, and tell which of them affect a release.

https://ossf.github.io/osv-schema/ defines the format. Two sources publish it for PyPI: OSV,
as a zip of JSON files (all.zip), and the repository pypa/advisory-database, as a
folder of YAML files.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["Finding", "InvalidVersion", "Set", "Unusable", "canonicalize_name", "in_order", "read"]

try:
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version
except ImportError:
    # Every pip contains a copy. A machine without fedimg and without network may have no other.
    from pip._vendor.packaging.utils import canonicalize_name  # type: ignore[assignment]
    from pip._vendor.packaging.version import InvalidVersion, Version  # type: ignore[assignment]

ECOSYSTEM = "PyPI"

#: The order in which events of the same version apply. "fixed" precedes "introduced", so that a
#: range which begins at the version where another one ends stays a range.
_EVENTS = ("fixed", "limit", "introduced", "last_affected")


class Unusable(Exception):
    """The set cannot be read at all; the text names it and says why."""


class _Bad(Exception):
    """One file is no advisory; the text says why."""


@dataclass(frozen=True)
class Advisory:
    """One advisory that concerns PyPI.

    Attributes:
        identity: its own name, such as GHSA-79v4-65xg-pq4g.
        aliases: the names that other databases give to the same vulnerability.
        affected: its entries about packages of PyPI, as (normalised name, OSV's `affected` entry).
    """

    identity: str
    aliases: tuple[str, ...]
    affected: tuple[tuple[str, dict[str, Any]], ...]


@dataclass
class Finding:
    """One vulnerability of a release: all its names, and the later versions that fix it."""

    identities: list[str]
    fixed: list[str]


@dataclass
class Set:
    """The advisories of a zip or a folder, without the withdrawn ones.

    Attributes:
        newest: the latest time at which any advisory was modified; None while there is none.
        bad: the reason for each file that could not be read, by the file's name.
    """

    advisories: list[Advisory] = field(default_factory=list)
    newest: datetime | None = None
    bad: dict[str, str] = field(default_factory=dict)

    def findings(self, name: str, version: str) -> list[Finding]:
        """Return the vulnerabilities of a release.

        Advisories that share a name or an alias describe one vulnerability. Raises InvalidVersion
        when `version` is not a valid version.
        """
        wanted, release = canonicalize_name(name), Version(version)
        found: list[Finding] = []
        for advisory in self.advisories:
            fixed = [
                _fixed(entry, release)
                for package, entry in advisory.affected
                if package == wanted and _affects(entry, release)
            ]
            if fixed:
                identities = [advisory.identity, *advisory.aliases]
                found.append(Finding(identities, [each for some in fixed for each in some]))
        return _merged(found)


def read(path: Path) -> Set:
    """Read all advisories of a zip or a folder. Raises Unusable when `path` is neither."""
    advisories = Set()
    for name, load in _files(path):
        try:
            _add(advisories, load())
        except _Bad as error:
            advisories.bad[name] = str(error)
        except (
            ValueError,
            OSError,
            EOFError,
            RuntimeError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            advisories.bad[name] = f"cannot be read: {error}"
    return advisories


def _files(path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the name of each file of a set, and what reads its JSON or YAML."""
    if path.is_dir():
        yield from _in_folder(path)
        return
    try:
        with zipfile.ZipFile(path) as packed:
            for name in sorted(packed.namelist()):
                if name.endswith(".json"):
                    yield name, partial(_zipped, packed, name)
    except (OSError, zipfile.BadZipFile) as error:
        raise Unusable(f"{path} is no zip and no folder of advisories: {error}") from error


def _in_folder(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    # PyPA's repository keeps its advisories in vulns/, and other YAML files beside it.
    root = folder / "vulns" if (folder / "vulns").is_dir() else folder
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if any(part.startswith(".") for part in relative.parts):
            continue
        if path.suffix == ".json":
            yield str(relative), partial(_json, path)
        elif path.suffix in (".yaml", ".yml"):
            yield str(relative), partial(_yaml, path)


def _zipped(packed: zipfile.ZipFile, name: str) -> Any:
    return json.loads(packed.read(name))


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _yaml(path: Path) -> Any:
    """Return a YAML file's value with every scalar as text: version 1.10 is not the number 1.1."""
    try:
        import yaml
    except ImportError:
        raise _Bad("this Python has no PyYAML to read YAML with; use OSV's all.zip") from None
    try:
        # PyYAML has the faster loader where it was built with libyaml.
        return yaml.load(path.read_bytes(), Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    except yaml.YAMLError as error:
        raise _Bad(f"is no YAML: {' '.join(str(error).split())}") from error


def _add(advisories: Set, value: Any) -> None:
    """Check the value of one file and add it to the set as an advisory. Raises _Bad."""
    document = _an_object(value, "the file")
    identity = _a_text(document.get("id"), "id")
    modified = _time(_a_text(document.get("modified"), "modified"))
    advisories.newest = max(modified, advisories.newest or modified)
    if document.get("withdrawn") not in (None, "", "null", "~"):
        return
    aliases = _a_list(document.get("aliases"), "aliases")
    affected = []
    for each in _a_list(document.get("affected"), "affected"):
        entry = _an_object(each, "affected")
        package = _an_object(entry.get("package") or {}, "package")
        if not package and any(
            _an_object(one, "a range").get("type") == "GIT" for one in _ranges(entry)
        ):
            # This entry concerns a repository, not a package.
            continue
        if _a_text(package.get("ecosystem"), "ecosystem") == ECOSYSTEM:
            _check(entry)
            affected.append((canonicalize_name(_a_text(package.get("name"), "name")), entry))
    if affected:
        names = tuple(_a_text(each, "alias") for each in aliases)
        advisories.advisories.append(Advisory(identity, names, tuple(affected)))


def _check(entry: dict[str, Any]) -> None:
    """Raise _Bad unless every version of an `affected` entry has the format's shape."""
    for each in _a_list(entry.get("versions"), "versions"):
        _a_text(each, "version")
    for one in _ranges(entry):
        for event in _a_list(_an_object(one, "range").get("events"), "events"):
            if one.get("type") == "ECOSYSTEM":
                _event(event)


def _ranges(entry: dict[str, Any]) -> list[Any]:
    return _a_list(entry.get("ranges"), "ranges")


def _event(value: Any) -> tuple[Version, str]:
    """Return an event's version and kind, such as (44.0.1, "fixed"). Raises _Bad."""
    event = _an_object(value, "event")
    if len(event) != 1 or not event.keys() <= set(_EVENTS):
        raise _Bad(
            f"an event is one of {', '.join(_EVENTS)}, and not {', '.join(event) or 'empty'}"
        )
    ((kind, said),) = event.items()
    text = _a_text(said, kind)
    if (kind, text) == ("limit", "*"):
        # No limit: a version above all others.
        return Version(f"{2**31}!0"), kind
    try:
        return Version(text), kind
    except InvalidVersion as error:
        raise _Bad(f"{kind}: {text!r} is no version of {ECOSYSTEM}") from error


def _events(entry: dict[str, Any]) -> list[list[tuple[Version, str]]]:
    """Return the events of each range of versions, sorted by version."""
    return [
        sorted(map(_event, one["events"]), key=lambda each: (each[0], _EVENTS.index(each[1])))
        for one in _ranges(entry)
        if one.get("type") == "ECOSYSTEM"
    ]


def _affects(entry: dict[str, Any], release: Version) -> bool:
    """Return whether an entry affects a release, by the evaluation rules of OSV's format.

    An entry without any comparable version affects every release, so that a person looks at it.
    """
    ranges, versions = _events(entry), entry.get("versions") or []
    if not ranges and not versions:
        return True
    return any(map(release.__eq__, map(_version, versions))) or any(
        _within(events, release) for events in ranges
    )


def _within(events: list[tuple[Version, str]], release: Version) -> bool:
    inside = False
    for version, kind in events:
        if kind == "introduced" and release >= version:
            inside = True
        if kind in ("fixed", "limit") and release >= version:
            inside = False
        if kind == "last_affected" and release > version:
            inside = False
    return inside


def _version(text: str) -> Version | None:
    """Return a version; None for an invalid one, which equals no pinned release."""
    try:
        return Version(text)
    except InvalidVersion:
        return None


def _fixed(entry: dict[str, Any], release: Version) -> list[str]:
    """Return the versions above a release that fix what an entry describes."""
    return [
        str(version)
        for events in _events(entry)
        for version, kind in events
        if kind == "fixed" and version > release
    ]


def _merged(found: list[Finding]) -> list[Finding]:
    """Merge the findings that share a name."""
    findings: list[Finding] = []
    for one in found:
        same = [each for each in findings if set(each.identities) & set(one.identities)]
        for each in same:
            findings.remove(each)
        together = [*same, one]
        identities = {name for each in together for name in each.identities}
        fixed = {version for each in together for version in each.fixed}
        findings.append(Finding(in_order(identities), sorted(fixed, key=Version)))
    return findings


def in_order(identities: Iterable[str]) -> list[str]:
    """Return a vulnerability's names without repetitions, GitHub's first."""
    return sorted(set(identities), key=lambda name: (not name.startswith("GHSA-"), name))


def _time(text: str) -> datetime:
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        raise _Bad(f"modified: {text!r} is no time") from None
    return then if then.tzinfo else then.replace(tzinfo=UTC)


def _an_object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Bad(f"{what} is no object")
    return value


def _a_list(value: Any, what: str) -> list[Any]:
    """Return a list; what is not there is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise _Bad(f"{what} is no list")
    return value


def _a_text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise _Bad(f"{what} is no text")
    return value
