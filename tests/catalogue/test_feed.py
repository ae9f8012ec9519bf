from __future__ import annotations

from xml.etree import ElementTree

from fedimg.catalogue.feed import FeedEntry, feed

ATOM = {"atom": "http://www.w3.org/2005/Atom"}


def entry(key: str, at: float, title: str = "Published: an image") -> FeedEntry:
    return FeedEntry(key, title, "4 AMIs in 2 regions", at, f"builds/{key}.json")


def parsed(
    site: str, *entries: FeedEntry, base: str = "https://amis.example.org/"
) -> ElementTree.Element:
    return ElementTree.fromstring(feed(site, base, entries))


def test_newest_entries_come_first_and_50_are_kept() -> None:
    root = parsed("prod", *(entry(f"a{number}", float(number)) for number in range(60)))
    links = [link.attrib["href"] for link in root.findall("atom:entry/atom:link", ATOM)]
    assert len(links) == 50
    assert links[0] == "https://amis.example.org/builds/a59.json"
    updated = root.findtext("atom:updated", namespaces=ATOM)
    assert updated == "1970-01-01T00:00:59Z"


def test_entries_have_what_atom_demands() -> None:
    root = parsed("prod", entry("one", 1.0), base="")
    assert root.find("atom:author/atom:name", ATOM) is not None
    for element in (root, *root.findall("atom:entry", ATOM)):
        for name in ("id", "title", "updated"):
            assert element.findtext(f"atom:{name}", namespaces=ATOM)
    link = root.find("atom:entry/atom:link", ATOM)
    assert link is not None
    assert link.attrib["href"] == "builds/one.json"


def test_identifiers_last_and_differ_between_sites() -> None:
    def ids(site: str) -> list[str | None]:
        return [
            each.text for each in parsed(site, entry("one", 1.0)).iter() if each.tag.endswith("}id")
        ]

    assert ids("prod") == ids("prod")
    assert not set(ids("prod")) & set(ids("stage"))


def test_texts_are_texts() -> None:
    title = "Withdrawn: <script>alert(1)</script> & more"
    root = parsed("prod", entry("one", 1.0, title))
    assert root.findtext("atom:entry/atom:title", namespaces=ATOM) == title
