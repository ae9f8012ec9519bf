"""Verifies who signed a call: Signature Version 4, in a header or in a URL.

The rules are those of "AWS Signature Version 4 for API requests" in the IAM User Guide. The
canonical request is made here from what arrived, and not by botocore's signer: that leaves out
headers which other SDKs sign, and takes the order and the escapes of a query as they are.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from functools import lru_cache
from urllib.parse import parse_qsl, quote, unquote_plus

from botocore.utils import normalize_url_path

from lab.ec2.request import Request, Signer

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
# How far a caller's clock may be from the lab's; S3 has more patience.
SKEW, S3_SKEW = timedelta(minutes=5), timedelta(minutes=15)
# The longest that a signed URL may be good for, in seconds.
_LONGEST = 7 * 24 * 3600

_SCOPE = r"(?P<key>[^/,\s]+)/(?P<day>\d{8})/(?P<region>[^/,\s]+)/(?P<service>[^/,\s]+)/aws4_request"
_HEADER = re.compile(
    rf"{ALGORITHM} +Credential={_SCOPE}, *SignedHeaders=(?P<signed>[^,\s]+), *"
    r"Signature=(?P<signature>[0-9a-f]{64})"
)
_CREDENTIAL = re.compile(_SCOPE)
_DATE = "%Y%m%dT%H%M%SZ"
_SHA256 = re.compile(r"[0-9a-f]{64}")
# A body in chunks that have signatures of their own: the first one is verified, and not these.
_STREAMING = "STREAMING-"


class Reason(Enum):
    """The reason for which a signature is refused; each service has its own text for it."""

    UNSIGNED = auto()
    OLD_VERSION = auto()
    INCOMPLETE = auto()
    UNKNOWN_KEY = auto()
    TOKEN = auto()
    TOKEN_EXPIRED = auto()
    SKEWED = auto()
    SIGNATURE = auto()
    BODY = auto()


class NotVerified(Exception):
    """A call whose caller is not known. `service` is the one that was called, if that is known."""

    def __init__(self, reason: Reason, detail: str = "", service: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.service = service


@dataclass(frozen=True)
class Credentials:
    """The lab's record of an access key. `token` and `expires` are those of a session."""

    secret: str
    token: str | None = None
    expires: datetime | None = None


@dataclass(frozen=True)
class _Signed:
    """The properties that a request gives of its own signature."""

    signer: Signer
    day: str
    headers: str
    signature: str
    date: str
    seconds: int | None  # how long a signed URL is good for; None for a header


def verify(
    request: Request, known: Callable[[str], Credentials | None], now: datetime | None = None
) -> Signer:
    """Return who signed a request. `known` has the credentials of an access key, or None.

    Raises NotVerified.
    """
    signed = _read(request)
    try:
        _check(request, signed, known, now or datetime.now(UTC))
    except NotVerified as refused:
        refused.service = signed.signer.service
        raise
    return signed.signer


def _check(
    request: Request,
    signed: _Signed,
    known: Callable[[str], Credentials | None],
    now: datetime,
) -> None:
    signer = signed.signer
    if "host" not in signed.headers.split(";"):
        raise NotVerified(Reason.INCOMPLETE, "'Host' must be a 'SignedHeader'.")
    if signer.service != signer.service.lower():
        raise NotVerified(Reason.INCOMPLETE, "Credential should be scoped to a valid service.")
    if signed.day != signed.date[:8]:
        raise NotVerified(
            Reason.SIGNATURE,
            f"Date in Credential scope does not match YYYYMMDD from the date of the request: "
            f"'{signed.day}' is not '{signed.date[:8]}'.",
        )
    credentials = known(signer.access_key)
    if credentials is None:
        raise NotVerified(Reason.UNKNOWN_KEY)
    if not _same(signer.session_token or "", credentials.token or ""):
        raise NotVerified(Reason.TOKEN)
    if not _same(_signature(request, signed, credentials.secret), signed.signature):
        raise NotVerified(Reason.SIGNATURE)
    _check_time(signed, now)
    if credentials.expires is not None and credentials.expires <= now:
        raise NotVerified(Reason.TOKEN_EXPIRED)


def _check_time(signed: _Signed, now: datetime) -> None:
    skew = S3_SKEW if signed.signer.service == "s3" else SKEW
    at, minutes = _time(signed.date), skew.seconds // 60
    if at - skew > now:
        raise NotVerified(
            Reason.SKEWED,
            f"Signature not yet current: {signed.date} is still later than "
            f"{(now + skew).strftime(_DATE)} ({now.strftime(_DATE)} + {minutes} min.)",
        )
    if signed.seconds is not None:
        if at + timedelta(seconds=signed.seconds) < now:
            raise NotVerified(Reason.SKEWED, "Request has expired")
    elif at + skew < now:
        raise NotVerified(
            Reason.SKEWED,
            f"Signature expired: {signed.date} is now earlier than "
            f"{(now - skew).strftime(_DATE)} ({now.strftime(_DATE)} - {minutes} min.)",
        )


def _read(request: Request) -> _Signed:
    """Return the parts of a signature. Raises NotVerified."""
    header = request.environ.get("HTTP_AUTHORIZATION")
    if str(header).startswith("AWS ") or (not header and "AWSAccessKeyId=" in request.query):
        raise NotVerified(
            Reason.OLD_VERSION,
            "The authorization mechanism you have provided is not supported. "
            f"Please use {ALGORITHM}.",
        )
    if header is not None:
        return _in_header(request, str(header))
    if "X-Amz-Signature" in request.query:
        return _in_query(request)
    raise NotVerified(Reason.UNSIGNED)


def _in_header(request: Request, header: str) -> _Signed:
    found = _HEADER.fullmatch(header.strip())
    if not found:
        # Whose words to use for it can be seen all the same.
        scope = _CREDENTIAL.search(header)
        raise NotVerified(
            Reason.INCOMPLETE,
            f"The Authorization header is not '{ALGORITHM} Credential=…, SignedHeaders=…, "
            "Signature=…'.",
            scope["service"] if scope else "",
        )
    signer = Signer(
        found["key"],
        found["region"],
        found["service"],
        request.header("X-Amz-Security-Token"),
    )
    date = _dated(request, found["service"])
    return _Signed(signer, found["day"], found["signed"], found["signature"], date, None)


def _dated(request: Request, service: str) -> str:
    date = request.header("X-Amz-Date")
    if date is None:
        try:
            said = parsedate_to_datetime(request.header("Date") or "")
        except ValueError:
            words = "The request has neither X-Amz-Date nor a Date that can be read."
            raise NotVerified(Reason.INCOMPLETE, words, service) from None
        date = said.astimezone(UTC).strftime(_DATE)
    _time(date, service)
    return date


def _in_query(request: Request) -> _Signed:
    asked = dict(parse_qsl(request.query, keep_blank_values=True))
    found = _CREDENTIAL.fullmatch(asked.get("X-Amz-Credential", ""))
    service = found["service"] if found else ""
    seconds = asked.get("X-Amz-Expires", "")
    complete = (
        asked.get("X-Amz-Algorithm") == ALGORITHM
        and _SHA256.fullmatch(asked["X-Amz-Signature"])
        and re.fullmatch(r"\d{1,6}", seconds)
        and int(seconds) <= _LONGEST
    )
    if not found or not complete:
        words = "The URL has no X-Amz-Algorithm, -Credential, -Expires or -Signature that is one."
        raise NotVerified(Reason.INCOMPLETE, words, service)
    date = asked.get("X-Amz-Date", "")
    _time(date, service)
    token = asked.get("X-Amz-Security-Token")
    return _Signed(
        Signer(found["key"], found["region"], service, token),
        found["day"],
        asked.get("X-Amz-SignedHeaders", ""),
        asked["X-Amz-Signature"],
        date,
        int(seconds),
    )


def _time(date: str, service: str = "") -> datetime:
    try:
        return datetime.strptime(date, _DATE).replace(tzinfo=UTC)
    except ValueError:
        words = f"The date of the request has to be as {_DATE}, and is '{date}'."
        raise NotVerified(Reason.INCOMPLETE, words, service) from None


def _signature(request: Request, signed: _Signed, secret: str) -> str:
    signer = signed.signer
    scope = f"{signed.day}/{signer.region}/{signer.service}/aws4_request"
    canonical = hashlib.sha256(_canonical(request, signed)).hexdigest()
    text = f"{ALGORITHM}\n{signed.date}\n{scope}\n{canonical}"
    key = _signing_key(secret, signed.day, signer.region, signer.service)
    return hmac.digest(key, text.encode(), "sha256").hex()


@lru_cache(maxsize=1024)
def _signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _canonical(request: Request, signed: _Signed) -> bytes:
    """Return the canonical request, as its caller has to have made it too."""
    names = signed.headers.split(";")
    path = request.raw_path
    if signed.signer.service != "s3":
        # Of all services S3 alone takes a path as it is.
        path = quote(normalize_url_path(path), safe="/~")
    return "\n".join(
        [
            request.method,
            path,
            _canonical_query(request.query),
            *(f"{name}:{_trimmed(request.header(name) or '')}" for name in names),
            "",
            signed.headers,
            _payload(request, signed),
        ]
    ).encode("latin-1", "replace")


def _trimmed(value: str) -> str:
    return " ".join(part for part in value.split(" ") if part)


def _canonical_query(query: str) -> str:
    if not query:
        return ""
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return "&".join(
        f"{name}={value}"
        for name, value in sorted((_escaped(name), _escaped(value)) for name, _, value in pairs)
        if name != "X-Amz-Signature"
    )


def _escaped(text: str) -> str:
    return quote(
        unquote_plus(text, errors="surrogateescape"), safe="-_.~", errors="surrogateescape"
    )


def _payload(request: Request, signed: _Signed) -> str:
    """Return the last line of the canonical request. Raises NotVerified for a body with another
    hash.
    """
    said = request.header("X-Amz-Content-SHA256")
    if said is None:
        presigned = signed.seconds is not None and signed.signer.service == "s3"
        return UNSIGNED if presigned else request.sha256.hex()
    if said == UNSIGNED or said.startswith(_STREAMING):
        return said
    if not _same(said.lower(), request.sha256.hex()):
        raise NotVerified(Reason.BODY)
    return said


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
