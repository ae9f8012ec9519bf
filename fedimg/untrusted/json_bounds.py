"""How much a JSON text of somebody who may mean harm holds, told before any of it is parsed."""

from __future__ import annotations

import re

#: An images.json of a whole Fedora has some 30,000 values, within each other six deep. Each takes a
#: quarter of a kilobyte of memory, or less.
MOST_VALUES = 300_000
DEEPEST = 50

# A string that does not end is one, too: each character is looked at once, whatever the text.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{\]},]', re.DOTALL)


def check(text: str) -> None:
    """Raise ValueError for more values, or deeper ones, than are read."""
    depth = 0
    values = 1
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "[" | "{":
                depth += 1
                values += 1
            case "]" | "}":
                depth -= 1
            case ",":
                values += 1
        if depth > DEEPEST:
            raise ValueError(f"its values are nested more than {DEEPEST} deep")
        if values > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES} values")
