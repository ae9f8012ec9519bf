"""Match regular expressions of the configuration with untrusted text, in linear time.

RE2 takes time in proportion to the text; Python's own engine can take exponential time. RE2 has no
look-around and no back-references, and the configuration rejects both.
"""

from __future__ import annotations

import re

import re2

#: Python reads {,n} as "at most n times", RE2 as the literal characters.
_AT_MOST = re.compile(r"\{,\d+\}")


def refuse_unmatchable(pattern: str) -> None:
    """Raise ValueError, with a text for the operator, when RE2 cannot match a pattern."""
    if at_most := _AT_MOST.search(pattern):
        raise ValueError(f"contains {at_most[0]}: write {{0{at_most[0][1:]} instead")
    try:
        _compiled(pattern)
    except re2.error as error:
        (reason,) = error.args
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
        raise ValueError(
            f"is not a regular expression of RE2's: {text} (RE2 has no look-around and no "
            r"back-references, and \z in place of \Z)"
        ) from error


def matches(pattern: str, text: str) -> bool:
    """Return whether a text contains a match; ^ and $ also match at the ends of its lines."""
    return _compiled(f"(?m:{pattern})").search(text) is not None


def groups(pattern: str) -> set[str]:
    """Return the names of a pattern's groups."""
    return set(_compiled(pattern, capture=True).groupindex)


def captured(pattern: str, text: str) -> dict[str, str] | None:
    """Return what the named groups of a pattern match at a text's beginning; None without a match.

    A group that takes no part in the match is left out.
    """
    found = _compiled(pattern, capture=True).match(text)
    if found is None:
        return None
    return {name: value for name, value in found.groupdict().items() if value is not None}


def _compiled(pattern: str, *, capture: bool = False) -> re2._Regexp:
    options = re2.Options()
    # RE2 logs errors to standard error, past our log.
    options.log_errors = False
    options.never_capture = not capture
    return re2.compile(pattern, options)
