"""Regular expressions of the configuration, matched with names and texts that others chose.

By RE2, whose time grows with the text alone: Python's own engine may take longer than anybody lives
over thirty characters. What RE2 cannot promise that for, look-around and references back, it
does not know; the configuration refuses it.
"""

from __future__ import annotations

import re

import re2

#: Python takes it for "up to so many", RE2 for these very characters.
_UP_TO = re.compile(r"\{,\d+\}")


def check(pattern: str) -> None:
    """Raise ValueError, in words for a person, for what cannot be matched."""
    if up_to := _UP_TO.search(pattern):
        raise ValueError(f"says {up_to[0]}: write {{0{up_to[0][1:]}")
    try:
        _compiled(pattern)
    except re2.error as error:
        (reason,) = error.args
        words = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
        raise ValueError(
            f"is not a regular expression that RE2 knows: {words} (it has no look-around and no "
            r"references back, and \z for \Z)"
        ) from error


def matches(pattern: str, text: str) -> bool:
    """Whether the text matches somewhere; ^ and $ stand at the ends of its lines, too."""
    return _compiled(f"(?m:{pattern})").search(text) is not None


def _compiled(pattern: str) -> re2._Regexp:
    options = re2.Options()
    # Onto standard error, past the log.
    options.log_errors = False
    options.never_capture = True
    return re2.compile(pattern, options)
