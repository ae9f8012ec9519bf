"""Tell in plain words why something failed, from any library's exception.

Libraries put Python's own words into their texts: representations of objects, class names, error
numbers. The module imports none of the libraries, so that every package may use it: it knows their
exceptions by what these carry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from fedimg.untrusted.quoting import one_line

#: How deep causes are looked for.
_DEEPEST = 10
#: The most characters of a reason.
_LONGEST = 1000
#: What a person does not want to read. The connection that urllib3 names before a reason, and the
#: URL that it names after it, may also be the target of a redirect, which may be signed.
_NOISE = (
    re.compile(r"<?\w{1,50}\.?\w{0,50}(?:\(host=[^)]{0,300}\)| object)(?: at 0x\w+)?>?: "),
    re.compile(r" ?(?:with|for) url: \S+"),
    re.compile(r"\[Errno [^\]]{1,10}\] ?"),
    re.compile(r" ?\(?_ssl\.c:\d+\)?"),
    re.compile(r"\[SSL(?:: \w+)?\] ?"),
    re.compile(r" ?\(reached max retries: \d+\)"),
    re.compile(r"\s*\[(?:SQL|parameters): .*", re.DOTALL),
    re.compile(r"\s*\(Background on [^)]*\)"),
    re.compile(r"^\(\w+(?:\.\w+)*\) (?=\w)"),
)
#: What still reads like Python's words after that.
_PYTHON = re.compile(
    r"object at 0x|<class |<[A-Z]\w+|<\w+\.\w+|Errno|\bNone\b|\b[bu]['\"]|\(['\"(]|\{['\"]"
    r"|max retries|Traceback|\b[A-Z]\w*(?:Error|Exception|Timeout|Pool|Read|Line)\("
    r"|\b[A-Z]\w*(?:Disconnected|Connection)\(",
    re.IGNORECASE,
)
_LIST = re.compile(r"\[('[^'\]]*'(?:, '[^'\]]*')*)\]")
_INCOMPLETE = re.compile(r"IncompleteRead\(([^)]*)\)")
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
#: Exceptions, by class name, whose own texts do not tell what happened.
_MEANINGS = {
    "AMQPConnectorAMQPHandshakeError": "the other end does not speak AMQP as expected",
    "AMQPConnectorStackTimeout": "connecting took too long",
    "AMQPConnectorPhaseErrorBase": "connecting failed",
    "BadStatusLine": "the answer is not HTTP",
    "ConnectionBlockedTimeout": "the broker blocked the connection for too long",
    "HeaderParsingError": "the headers of the answer cannot be read",
    "IncompleteRead": "the connection ended before the whole answer had come",
    "NoValidConnectionsError": "nothing listens on the port",
    "ProxySchemeUnknown": "the address of the proxy has no scheme that is supported",
    "ResponseParserError": "the answer cannot be read, so AWS did not write it",
    "StreamLostError": "the connection was lost",
    "gaierror": "the name cannot be resolved",
    "timeout": "no answer in time",
}


def reason(error: BaseException) -> str:
    """Return why something failed, in one line of plain words, without the URL of a request.

    The innermost cause that says something counts.
    """
    if refusal := _refusal(error):
        return one_line(refusal, _LONGEST)
    said = ""
    for each in _causes(error):
        text = _text(each)
        if text and not _PYTHON.search(text):
            said = text
        elif meaning := _meaning(each):
            said = meaning
    return one_line(said, _LONGEST) or _words(type(error).__name__)


def of_endpoint(error: BaseException) -> str:
    """Return `reason`, and which of AWS's endpoints was called where the error knows that."""
    said, carried = reason(error), getattr(error, "kwargs", None)
    called = urlsplit(str(carried.get("endpoint_url") or "")) if isinstance(carried, dict) else None
    if not called or not called.netloc or called.netloc in said:
        return said
    return f"{called.scheme}://{called.netloc}: {said}"


def _refusal(error: BaseException) -> str:
    """Return what AWS refused and why; empty for other errors."""
    response, operation = getattr(error, "response", None), getattr(error, "operation_name", None)
    if not isinstance(response, dict) or not isinstance(operation, str):
        return ""
    refused = response.get("Error", {})
    why = _clean(str(refused.get("Message") or "")) or "no reason given"
    return f"{operation} was refused with {refused.get('Code') or 'no code'}: {why}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, the innermost last."""
    seen: set[int] = set()
    for _ in range(_DEEPEST):
        if id(error) in seen:
            return
        seen.add(id(error))
        yield error
        inner = [each for each in _flat(error.args) if isinstance(each, BaseException)]
        inner += [
            each
            for name in ("reason", "exception", "orig", "original_exception")
            if isinstance(each := getattr(error, name, None), BaseException)
        ]
        carried = getattr(error, "kwargs", None)
        if isinstance(carried, dict) and isinstance(carried.get("error"), BaseException):
            inner.append(carried["error"])
        if isinstance(error.__cause__, OSError):
            inner.append(error.__cause__)
        if not inner:
            return
        error = inner[-1]


def _flat(values: object) -> Iterator[object]:
    if isinstance(values, (tuple, list)):
        for each in values:
            yield from _flat(each)
    else:
        yield values


def _text(error: BaseException) -> str:
    """Return an exception's own text, cleaned; empty if it has none."""
    reply = getattr(error, "reply_text", None)
    if isinstance(reply, str) and reply:
        return _clean(reply)
    if isinstance(error, OSError) and isinstance(error.strerror, str) and error.errno is not None:
        return _clean(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
    if len(error.args) > 1 and isinstance(error.args[0], int) and isinstance(error.args[1], str):
        return _clean(error.args[1])
    if isinstance(error, KeyError):
        # Its text is the representation of the key.
        return ""
    try:
        return _clean(str(error))
    except Exception:
        # A few libraries' exceptions cannot be printed.
        return ""


def _clean(text: str) -> str:
    for noise in _NOISE:
        text = noise.sub("", text)
    text = _INCOMPLETE.sub(r"\1", text)
    return _LIST.sub(lambda found: found[1].replace("'", ""), text).strip()


def _meaning(error: BaseException) -> str:
    for each in type(error).__mro__:
        if each.__name__ in _MEANINGS:
            return _MEANINGS[each.__name__]
    return ""


def _words(name: str) -> str:
    """Return a class name as words: `ConnectionResetError` becomes "connection reset error"."""
    parts = _CAPITAL.split(name)
    return " ".join(part if part.isupper() else part.lower() for part in parts)
