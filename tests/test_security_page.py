"""docs/security.md: each claim names a test that shows it, and each named test is there.

Follows docs/security.md.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from fedimg.sources import compose_listing
from fedimg.sources.composes import _METADATA_LIMIT
from fedimg.sources.xmlrpc import ANSWER_LIMIT, BOUNDS
from fedimg.untrusted import json_bounds
from tests import test_answer_memory

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/security.md"
#: How a block begins that claims nothing of fedimg; the page's introduction tells what each means.
MARKS = ("**Limit.**", "**To do.**", "**Reason.**")
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def blocks(page: str) -> list[str]:
    """Return the paragraphs, list items and table rows of a page, from its first section on.

    Titles, code, and the two lines above a table's rows are none.
    """
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", page[page.index("\n## ") :]):
        lines = [line for line in paragraph.splitlines() if line.strip()]
        if all(line.startswith("    ") for line in lines):
            continue
        if lines[0].startswith("|"):
            assert set(lines[1]) <= set("|- "), lines[1]
            found += lines[2:]
            continue
        for line in lines:
            if line.startswith("#"):
                continue
            if line.startswith(("* ", "|")) or line is lines[0] or not found:
                found.append(line)
            else:
                found[-1] += f"\n{line}"
    return found


def claims(page: str) -> list[str]:
    """Return the blocks that have to name a test: those without a mark that introduce no list."""
    found = blocks(page)
    return [
        block
        for block, following in zip(found, [*found[1:], ""], strict=True)
        if not block.removeprefix("* ").startswith(MARKS)
        and not (block.endswith(":") and following.startswith(("* ", "|")))
    ]


def untested(page: str) -> list[str]:
    return [claim for claim in claims(page) if not REFERENCE.search(claim)]


@functools.cache
def defined_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def missing(page: str) -> list[str]:
    """Return the tests that a page names and that are not there."""
    return [
        f"{file}::{name}"
        for file, name in REFERENCE.findall(page)
        if not (ROOT / file).is_file() or name not in defined_in(ROOT / file)
    ]


def test_every_claim_names_a_test() -> None:
    page = PAGE.read_text()
    assert len(claims(page)) > 80
    assert untested(page) == []


def test_every_test_that_is_named_is_there() -> None:
    page = PAGE.read_text()
    assert missing(page) == []
    # Nothing else looks like a test's name.
    assert re.findall(r"\btest_\w+\b(?!\.py)", page) == [
        name for _, name in REFERENCE.findall(page)
    ]


def test_marks_are_explained_and_no_others_are_used() -> None:
    page = PAGE.read_text()
    introduction = page[: page.index("\n## ")]
    assert all(mark in introduction for mark in MARKS)
    used = re.findall(r"(?m)^(?:\* )?(\*\*[A-Z][\w ]*\.\*\*)", page[len(introduction) :])
    assert set(used) == set(MARKS)


HERE = "`tests/test_security_page.py::test_every_claim_names_a_test`"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A claim.", 1),
        (f"A claim. {HERE}", 0),
        ("* A claim.\n* Another.", 2),
        (f"* A claim\n  {HERE}\n* Another.", 1),
        ("**Limit.** It has none.", 0),
        ("* **To do.** Do it.", 0),
        ("**Certain.** It is so.", 1),
        (f"These hold:\n\n* One. {HERE}", 0),
        (f"These hold:\n* One. {HERE}", 0),
        ("This holds:\n\nIt does.", 2),
        (f"| a | b |\n|---|---|\n| c | d |\n| e | {HERE} |", 1),
        (f"### Title\nA claim. {HERE}\n\n    code = 1", 0),
        ("A claim by `test_every_claim_names_a_test`.", 1),
    ],
)
def test_claim_without_a_test_is_found(text: str, expected: int) -> None:
    assert len(untested(f"# Title\n\nIntroduction.\n\n## Section\n\n{text}\n")) == expected


def test_name_that_is_no_test_is_found() -> None:
    assert missing(HERE) == []
    for stale in ("tests/gone.py::test_x", "tests/test_security_page.py::test_gone"):
        assert missing(f"`{stale}`") == [stale]
    assert missing("`tests/test_security_page.py::untested`") != []


def test_page_names_the_bounds_of_an_answer() -> None:
    page = " ".join(PAGE.read_text().split())
    mib = 1024 * 1024
    assert ANSWER_LIMIT == _METADATA_LIMIT == 16 * mib
    for told in (
        f"may have {ANSWER_LIMIT // mib} MiB, {BOUNDS.elements:,} elements",
        f"elements in {BOUNDS.depth} levels",
        f"{BOUNDS.seconds:g} seconds of parsing",
        f"{json_bounds.MOST_VALUES:,} values in {json_bounds.DEEPEST} levels",
        f"less than {test_answer_memory.MOST_MIB} MiB of memory",
        f"less than {test_answer_memory.MOST_AT_ONCE_MIB} MiB",
    ):
        assert told in page
    assert compose_listing._LISTING_SECONDS == 1800
    assert "ends after half an hour" in page
