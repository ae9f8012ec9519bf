"""Bound the number and nesting depth of an untrusted JSON text's values before it is parsed."""

from __future__ import annotations

import re

#: The images.json of a whole Fedora has some 30,000 values, nested six deep. Each takes at most 256
#: bytes of memory.
MOST_VALUES = 300_000
DEEPEST = 50

# An unterminated string counts as a string, so that each character is read once, for any text.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{\]},]', re.DOTALL)


def refuse_unbounded(text: str) -> None:
    """Raise ValueError when a JSON text has more values, or nests them deeper, than allowed."""
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
