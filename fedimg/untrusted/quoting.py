"""What others said, made fit to be quoted: printable, on one line, bounded, without secrets.

A server's reason phrase or an SSH banner is anybody's text. fedimg.untrusted.redaction knows what
is secret.
"""

from __future__ import annotations

import re
from typing import Any

from fedimg.untrusted.redaction import hide

#: The most characters of what somebody else said that one of our texts quotes, …
QUOTED = 300
#: … and the most that an error has.
LONGEST = 4000

_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movements
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC: window titles, links
    r"|\x1b[ -/]*[0-~]"
)
#: How urllib3 names its connection in front of a reason, and the address that it was asked for.
_CONNECTION = re.compile(r"<?\w{1,50}\.?\w{0,50}(?:\(host=[^)]{0,300}\)| object)(?: at 0x\w+)?>?: ")
_ASKED = re.compile(r" ?(?:with|for) url: \S+")


class QuotedError(Exception):
    """An error whose text may quote others: it is printable, on one line, and bounded."""

    def __init__(self, text: str = "") -> None:
        super().__init__(one_line(text, LONGEST))


def printable(text: str) -> str:
    """A line that somebody else wrote, without what would move a terminal's cursor."""
    if text.isprintable():
        return text
    # What was no text to begin with shows as question marks.
    plain = _ESCAPES.sub("", text).encode(errors="replace").decode()
    return (
        plain if plain.isprintable() else "".join(c for c in plain if c.isprintable() or c == "\t")
    )


def plain(text: str) -> str:
    """A text of several lines, each of them printable, without secrets."""
    return hide("\n".join(map(printable, text.split("\n"))))


def one_line(text: str, longest: int = QUOTED) -> str:
    """A text as one printable line of at most so many characters, without secrets."""
    # What is cut first may hide no secret behind its first half; what is never cut takes long.
    whole = plain(text[: 4 * longest].replace("\r", "\n")).replace("\t", " ")
    line = " ".join(part for each in whole.split("\n") if (part := each.strip()))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def plain_values(value: Any) -> Any:
    """JSON whose texts are plain, the names in it too."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(str(name)): plain_values(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(each) for each in value]
    return value


def reason(error: BaseException) -> str:
    """Why a request failed, in one line, without the address that it led to.

    Where a server redirected to may be a signed address, and is not what anybody asked for.
    """
    for _ in range(10):
        inner = [each for each in error.args if isinstance(each, BaseException)]
        behind = getattr(error, "reason", None)
        if isinstance(behind, BaseException):
            inner.append(behind)
        if not inner:
            break
        error = inner[-1]
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        error = cause
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return one_line(_ASKED.sub("", _CONNECTION.sub("", text)))
