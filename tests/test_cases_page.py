"""docs/cases.md: every row names a test that exists.

Follows docs/cases.md.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
_ROWS = [
    line
    for line in (ROOT / "docs/cases.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| kind ")
]


def lacking(row: str) -> list[str]:
    """Return what is wrong with a row: cells that are missing, and tests that do not exist."""
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    if len(cells) != 4 or not all(cells):
        return ["the row has not four cells"]
    named = _NAMED.findall(cells[3])
    wrong = [] if named else ["the row names no test"]
    for file, test in named:
        path = ROOT / file
        if not path.is_file():
            wrong.append(f"{file} does not exist")
        elif test and not re.search(rf"^ *(?:async )?def {test}\(", path.read_text(), re.MULTILINE):
            wrong.append(f"{file} has no {test}")
    return wrong


@pytest.mark.parametrize("row", _ROWS)
def test_row_names_tests_that_exist(row: str) -> None:
    assert lacking(row) == []


def test_page_has_rows() -> None:
    assert len(_ROWS) >= 10


@pytest.mark.parametrize(
    "row",
    [
        "| kind | behaviour | 1.0.0 | by hand |",
        "| kind | behaviour | 1.0.0 | `tests/test_nothing.py` |",
        "| kind | behaviour | 1.0.0 | `tests/test_cases_page.py::test_nothing` |",
        "| kind | behaviour | `tests/test_cases_page.py` |",
    ],
)
def test_row_without_a_real_test_is_seen(row: str) -> None:
    assert lacking(row)
