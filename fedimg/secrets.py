"""What must not be told is taken out of texts that others wrote: errors, and what instances print.

A second line: fedimg puts no secret into a text by itself.
"""

from __future__ import annotations

import re

HIDDEN = "[hidden]"
# Bounded where they repeat: what is searched may be made to take long.
_FRAME = re.compile(r"-{0,5}(BEGIN|END) [A-Z0-9 ]{0,30}PRIVATE KEY-----")
#: A password, or any other user information, in front of a URL's host.
_URL_USER = re.compile(r"(?<=://)[^\s/@'\"]+(?=@)")
#: A private key by its PEM frame, to its end or, where it was cut, to the text's.
_PRIVATE_KEY = re.compile(
    r"(-{0,5}BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY-----).*?"
    r"(-----END [A-Z0-9 ]{0,30}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)


def hide(text: str) -> str:
    """The text without passwords of URLs and without private keys."""
    text = _URL_USER.sub(HIDDEN, text) if "://" in text else text
    if "PRIVATE KEY-----" not in text:
        return text
    text = _PRIVATE_KEY.sub(rf"\1 {HIDDEN} \2", text)
    # Of the first one, a tail may hold no more than the end.
    first = _FRAME.search(text)
    return text if first is None or first[1] == "BEGIN" else HIDDEN + text[first.start() :]
