"""Make the Atom feed (RFC 4287) of what was published and withdrawn.

The standard library writes the XML: a feed has a dozen elements, and the libraries for feeds bring
an XML library in C.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree import ElementTree

from fedimg.catalogue import documents

_NAMESPACE = "http://www.w3.org/2005/Atom"
#: How many entries the feed has.
_ENTRIES = 50


@dataclass(frozen=True)
class FeedEntry:
    """One entry: a publication, or the withdrawal of an image.

    `key` identifies it for ever; `at` is in seconds since the epoch; `link` is the name of a file
    of the catalogue.
    """

    key: str
    title: str
    text: str
    at: float
    link: str


def feed(site: str, base_url: str, entries: Iterable[FeedEntry]) -> bytes:
    """Return the feed of the newest entries, whose links begin with `base_url`."""
    ElementTree.register_namespace("", _NAMESPACE)
    newest = sorted(entries, key=lambda entry: (-entry.at, entry.key))[:_ENTRIES]
    root = ElementTree.Element(_name("feed"))
    _add(root, "title", f"AMIs of the site {site}")
    _add(root, "id", _identifier(site, "feed"))
    _add(root, "updated", documents.time(newest[0].at if newest else 0.0) or "")
    _add(_add(root, "author"), "name", f"fedimg, site {site}")
    _link(root, f"{base_url}feed.atom", rel="self")
    for entry in newest:
        element = _add(root, "entry")
        _add(element, "title", entry.title)
        _add(element, "id", _identifier(site, entry.key))
        _add(element, "updated", documents.time(entry.at) or "")
        _link(element, f"{base_url}{entry.link}", rel="alternate")
        _add(element, "summary", entry.text)
    ElementTree.indent(root, " ")
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _name(local: str) -> str:
    return f"{{{_NAMESPACE}}}{local}"


def _add(parent: ElementTree.Element, local: str, text: str = "") -> ElementTree.Element:
    element = ElementTree.SubElement(parent, _name(local))
    element.text = text or None
    return element


def _link(parent: ElementTree.Element, href: str, rel: str) -> None:
    _add(parent, "link").attrib.update({"rel": rel, "href": href})


def _identifier(site: str, key: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"fedimg:{site}:{key}").urn
