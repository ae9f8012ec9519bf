"""Remove secrets from untrusted text, such as errors of libraries and output of instances.

This is a second line of defence: fedimg itself puts no secret into a text. All text that leaves it
in logs, answers, JSON, messages and rows of the database passes through `hide`.
"""

from __future__ import annotations

import re

HIDDEN = "[hidden]"
# Repetitions in the patterns are bounded: an untrusted text must not make the search take long.
#: The user information of a URL, such as a password.
_URL_USER = re.compile(r"(?<=://)[^\s/'\"<>]+(?=@)")
#: A private key in its PEM frame, up to the end of the key or, if the key is cut, of the text.
_PRIVATE_KEY = re.compile(
    r"(-{0,5}BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY-----).*?"
    r"(-----END [A-Z0-9 ]{0,30}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_FRAME = re.compile(r"-{0,5}(BEGIN|END) [A-Z0-9 ]{0,30}PRIVATE KEY-----")
#: The frame's first line without its beginning, as at the start of a tail of output.
_CUT_FRAME = re.compile(
    r"\A(?!-{0,5}END )[A-Z0-9 ]{0,30}PRIVATE KEY-----.*?(-----END |\Z)", re.DOTALL
)
#: The body of a key in OpenSSH's format, with or without its frame.
_OPENSSH = re.compile(r"b3BlbnNzaC1rZXktdjEA[A-Za-z0-9+/=\s\\]*")

#: An AWS access key id, with the secret access key if it follows.
_AWS_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{12,124}"
    r"(?:(?:[^A-Za-z0-9/+]{1,8}|%(?:25)?[23][0-9A-Fa-f])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+]))?"
)
#: A session token of AWS, by its first characters.
_AWS_TOKEN = re.compile(r"(?<![A-Za-z0-9])(?:IQoJb3JpZ2lu|F[wQ]oGZXIvYXdz)[A-Za-z0-9/+=%_-]{8,}")
#: The query of a URL, also percent-encoded once or twice; `_SIGNED` finds signatures and
#: credentials in it.
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
#: The value after one of these names, as in `name=value`, in JSON, XML or a URL.
_NAMED = re.compile(
    rf"(?<![a-z0-9])((?:{_NAMES})(?:\\?[\"'])?\s{{0,4}}(?:=>|[:=>]|%(?:25)?3[ad])\s{{0,4}})"
    r"(\\?\"[^\"\\\n]+|\\?'[^'\\\n]+|[^\s\"'&<>,;)}\]\\]+)",
    re.IGNORECASE,
)
#: A secret access key after its name and a space, as on a command line.
_SPACED = re.compile(
    r"(?<![a-z0-9])((?:aws[_-]?)?secret(?:[_-]?access)?[_-]?key[\"']?\s{1,8}[\"']?)[a-z0-9/+]{40}",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"\b(authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?)[^\"'\n]+", re.IGNORECASE
)
_BEARER = re.compile(r"\b(bearer )[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)


def hide(text: str) -> str:
    """Return a text without keys, tokens, passwords and signed URL queries."""
    text = _without_private_keys(text)
    text = _URL_USER.sub(HIDDEN, text) if "://" in text else text
    text = _QUERY.sub(lambda query: HIDDEN if _SIGNED.search(query[0]) else query[0], text)
    text = _AWS_KEY.sub(HIDDEN, text)
    text = _AWS_TOKEN.sub(HIDDEN, text)
    text = _SPACED.sub(rf"\1{HIDDEN}", text)
    text = _AUTHORIZATION.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    return _NAMED.sub(_hidden_value, text)


def _hidden_value(match: re.Match[str]) -> str:
    quote = re.match(r"\\?[\"']?", match[2])
    # A value that is already hidden stays as it is.
    return match[0] if match[2].startswith("[hidden") else f"{match[1]}{quote and quote[0]}{HIDDEN}"


def _without_private_keys(text: str) -> str:
    if "PRIVATE KEY-----" in text:
        text = _CUT_FRAME.sub(rf"{HIDDEN} \1", text)
        text = _PRIVATE_KEY.sub(rf"\1 {HIDDEN} \2", text)
        # A tail of output may hold only the end of its first key.
        first = _FRAME.search(text)
        if first is not None and first[1] == "END":
            text = HIDDEN + text[first.start() :]
    return _OPENSSH.sub(HIDDEN, text)
