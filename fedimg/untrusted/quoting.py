"""Make untrusted text fit to be quoted: printable, on one line, bounded, without secrets.

A server's reason phrase and an SSH banner are untrusted, for example. fedimg.untrusted.redaction
finds the secrets.
"""

from __future__ import annotations

import json
import re
from typing import Any

from fedimg.untrusted.redaction import hide

#: Most characters of untrusted text that a text of ours quotes.
QUOTED = 300
#: Most characters of an error.
LONGEST = 4000

_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movements
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC: window titles, links
    r"|\x1b[ -/]*[0-~]"
)


class QuotedError(Exception):
    """An error whose text may quote untrusted text: it is printable, on one line, and bounded."""

    def __init__(self, text: str = "") -> None:
        super().__init__(one_line(text, LONGEST))


def printable(text: str) -> str:
    """Return an untrusted line without escape sequences and control characters."""
    if text.isprintable():
        return text
    # Characters that cannot be encoded become question marks.
    plain = _ESCAPES.sub("", text).encode(errors="replace").decode()
    return (
        plain if plain.isprintable() else "".join(c for c in plain if c.isprintable() or c == "\t")
    )


def plain(text: str) -> str:
    """Return a text of several lines with each line printable, without secrets."""
    return hide("\n".join(map(printable, text.split("\n"))))


def one_line(text: str, longest: int = QUOTED) -> str:
    """Return a text as one printable line of at most `longest` characters, without secrets."""
    # Cut at four times the length first, as redaction of a long text takes long; the rest is a
    # margin, so that no half of a secret at this cut is left in the result.
    whole = plain(text[: 4 * longest].replace("\r", "\n")).replace("\t", " ")
    line = " ".join(part for each in whole.split("\n") if (part := each.strip()))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def quoted(value: object, longest: int = QUOTED) -> str:
    """Return untrusted data for a sentence: text in quotation marks, other data as JSON."""
    if isinstance(value, str):
        return f'"{one_line(value, longest)}"'
    return one_line(json.dumps(value, default=str), longest)


def plain_values(value: Any) -> Any:
    """Return a JSON value with `plain` applied to all of its strings and names."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(str(name)): plain_values(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(each) for each in value]
    return value
