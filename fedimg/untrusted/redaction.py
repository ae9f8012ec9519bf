"""What must not be told is taken out of texts that others wrote: errors, and what instances print.

A second line: fedimg puts no secret into a text by itself. Whatever leaves it, as log, answer,
JSON, message or row of the database, passes through `hide`.
"""

from __future__ import annotations

import re

HIDDEN = "[hidden]"
# All are bounded where they repeat: what is searched may be made to take long.
#: A password, or any other user information, in front of a URL's host.
_URL_USER = re.compile(r"(?<=://)[^\s/'\"<>]+(?=@)")
#: A private key by its PEM frame, to its end or, where it was cut, to the text's.
_PRIVATE_KEY = re.compile(
    r"(-{0,5}BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY-----).*?"
    r"(-----END [A-Z0-9 ]{0,30}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_FRAME = re.compile(r"-{0,5}(BEGIN|END) [A-Z0-9 ]{0,30}PRIVATE KEY-----")
#: The frame's first line without its beginning, as at the start of a tail.
_CUT_FRAME = re.compile(
    r"\A(?!-{0,5}END )[A-Z0-9 ]{0,30}PRIVATE KEY-----.*?(-----END |\Z)", re.DOTALL
)
#: How the body of OpenSSH's keys begins, whatever is left of the frame.
_OPENSSH = re.compile(r"b3BlbnNzaC1rZXktdjEA[A-Za-z0-9+/=\s\\]*")

#: A key's id, with the key itself where that follows it.
_AWS_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{12,124}"
    r"(?:(?:[^A-Za-z0-9/+]{1,8}|%(?:25)?[23][0-9A-Fa-f])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+]))?"
)
#: How the session tokens of AWS begin.
_AWS_TOKEN = re.compile(r"(?<![A-Za-z0-9])(?:IQoJb3JpZ2lu|F[wQ]oGZXIvYXdz)[A-Za-z0-9/+=%_-]{8,}")
#: A query in which something is signed, or which lets in whoever has it; encoded once or twice too.
_QUERY = re.compile(r"(?<=[?])[^\s\"'<>?]+|(?<=%3[Ff])[^\s\"'<>?&]+|(?<=%253[Ff])[^\s\"'<>?&]+")
_SIGNED = re.compile(
    r"sig(?:nature)?(?:=|%)|token|credential|secret|passw|accesskeyid|key-pair-id|policy(?:=|%)"
    r"|expires(?:=|%)|x-amz-|x-goog-|api[_-]?key|auth(?:=|%)|jwt",
    re.IGNORECASE,
)
_NAMES = (
    r"(?:aws[_-]?)?secret(?:[_-]?access)?[_-]?key|(?:aws[_-]?)?(?:session|security)[_-]?token"
    r"|(?:aws[_-]?)?access[_-]?key[_-]?id"
    r"|x-(?:amz|goog)-(?:signature|security-token|credential)"
    r"|(?:(?:access|refresh|id|auth|api|bearer)[_-]?)?token|signature|sig|key-pair-id"
    r"|(?:[a-z]{1,20}_)?pass(?:word|wd|phrase)|api[_-]?key|client[_-]?secret|pgpassword"
)
#: The value of what has such a name, as `name=value`, in JSON, XML or a URL.
_NAMED = re.compile(
    rf"(?<![a-z0-9])((?:{_NAMES})(?:\\?[\"'])?\s{{0,4}}(?:=>|[:=>]|%(?:25)?3[ad])\s{{0,4}})"
    r"(\\?\"[^\"\\\n]+|\\?'[^'\\\n]+|[^\s\"'&<>,;)}\]\\]+)",
    re.IGNORECASE,
)
#: The same key behind its name alone, as on a command's line.
_SPACED = re.compile(
    r"(?<![a-z0-9])((?:aws[_-]?)?secret(?:[_-]?access)?[_-]?key[\"']?\s{1,8}[\"']?)[a-z0-9/+]{40}",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"\b(authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?)[^\"'\n]+", re.IGNORECASE
)
_BEARER = re.compile(r"\b(bearer )[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)


def hide(text: str) -> str:
    """The text without keys, tokens, passwords, and queries that are signed."""
    text = _without_private_keys(text)
    text = _URL_USER.sub(HIDDEN, text) if "://" in text else text
    text = _QUERY.sub(lambda query: HIDDEN if _SIGNED.search(query[0]) else query[0], text)
    text = _AWS_KEY.sub(HIDDEN, text)
    text = _AWS_TOKEN.sub(HIDDEN, text)
    text = _SPACED.sub(rf"\1{HIDDEN}", text)
    text = _AUTHORIZATION.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    return _NAMED.sub(_hidden_value, text)


def _hidden_value(found: re.Match[str]) -> str:
    quote = re.match(r"\\?[\"']?", found[2])
    # What is hidden already keeps its looks.
    return found[0] if found[2].startswith("[hidden") else f"{found[1]}{quote and quote[0]}{HIDDEN}"


def _without_private_keys(text: str) -> str:
    if "PRIVATE KEY-----" in text:
        text = _CUT_FRAME.sub(rf"{HIDDEN} \1", text)
        text = _PRIVATE_KEY.sub(rf"\1 {HIDDEN} \2", text)
        # Of the first one, a tail may hold no more than the end.
        first = _FRAME.search(text)
        if first is not None and first[1] == "END":
            text = HIDDEN + text[first.start() :]
    return _OPENSSH.sub(HIDDEN, text)
