"""The errors that each service gives an unknown caller: codes and texts, by its protocol.

The codes are those of "Common errors" in each service's API reference, and of EC2's and S3's lists
of error codes.
"""

import json
from xml.sax.saxutils import escape

from lab.ec2 import wire
from lab.ec2.errors import EC2Error
from lab.ec2.request import Answer, Request
from lab.ec2.signatures import NotVerified, Reason

_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS "
    "Secret Access Key and signing method. Consult the service documentation for details."
)
_NO_TOKEN = "Request is missing Authentication Token"
_BAD_TOKEN = "The security token included in the request is invalid."
_OLD_TOKEN = "The security token included in the request is expired"
_BODY = "The provided 'x-amz-content-sha256' header does not match what was computed."
_NOBODY = "AWS was not able to validate the provided access credentials"

# A reason's code, status and words; None stands for the detail of the refusal.
_Said = tuple[str, int, str | None]

_EC2: dict[Reason, _Said] = {
    Reason.UNSIGNED: ("MissingAuthenticationToken", 403, _NO_TOKEN),
    Reason.OLD_VERSION: ("IncompleteSignature", 400, None),
    Reason.INCOMPLETE: ("IncompleteSignature", 400, None),
    Reason.UNKNOWN_KEY: ("AuthFailure", 401, _NOBODY),
    Reason.TOKEN: ("AuthFailure", 401, _NOBODY),
    Reason.TOKEN_EXPIRED: ("RequestExpired", 400, "Request has expired."),
    Reason.SKEWED: ("RequestExpired", 400, "Request has expired."),
    Reason.SIGNATURE: ("AuthFailure", 401, _NOBODY),
    Reason.BODY: ("AuthFailure", 401, _NOBODY),
}
# IAM, STS and all others that take forms.
_QUERY: dict[Reason, _Said] = {
    Reason.UNSIGNED: ("MissingAuthenticationToken", 403, _NO_TOKEN),
    Reason.OLD_VERSION: ("IncompleteSignature", 403, None),
    Reason.INCOMPLETE: ("IncompleteSignature", 403, None),
    Reason.UNKNOWN_KEY: ("InvalidClientTokenId", 403, _BAD_TOKEN),
    Reason.TOKEN: ("InvalidClientTokenId", 403, _BAD_TOKEN),
    Reason.TOKEN_EXPIRED: ("ExpiredToken", 403, _OLD_TOKEN),
    Reason.SKEWED: ("SignatureDoesNotMatch", 403, None),
    Reason.SIGNATURE: ("SignatureDoesNotMatch", 403, _MISMATCH),
    Reason.BODY: ("SignatureDoesNotMatch", 403, _MISMATCH),
}
# EBS direct, Service Quotas and all others that take JSON.
_JSON: dict[Reason, _Said] = {
    Reason.UNSIGNED: ("MissingAuthenticationTokenException", 403, _NO_TOKEN),
    Reason.OLD_VERSION: ("IncompleteSignatureException", 403, None),
    Reason.INCOMPLETE: ("IncompleteSignatureException", 403, None),
    Reason.UNKNOWN_KEY: ("UnrecognizedClientException", 403, _BAD_TOKEN),
    Reason.TOKEN: ("UnrecognizedClientException", 403, _BAD_TOKEN),
    Reason.TOKEN_EXPIRED: ("ExpiredTokenException", 403, _OLD_TOKEN),
    Reason.SKEWED: ("InvalidSignatureException", 403, None),
    Reason.SIGNATURE: ("InvalidSignatureException", 403, _MISMATCH),
    Reason.BODY: ("InvalidSignatureException", 403, _MISMATCH),
}
_S3: dict[Reason, _Said] = {
    Reason.UNSIGNED: ("AccessDenied", 403, "Access Denied"),
    Reason.OLD_VERSION: ("InvalidRequest", 400, None),
    Reason.INCOMPLETE: ("AuthorizationHeaderMalformed", 400, None),
    Reason.UNKNOWN_KEY: (
        "InvalidAccessKeyId",
        403,
        "The AWS Access Key Id you provided does not exist in our records.",
    ),
    Reason.TOKEN: ("InvalidToken", 400, "The provided token is malformed or otherwise invalid."),
    Reason.TOKEN_EXPIRED: ("ExpiredToken", 400, "The provided token has expired."),
    Reason.SKEWED: (
        "RequestTimeTooSkewed",
        403,
        "The difference between the request time and the current time is too large.",
    ),
    Reason.SIGNATURE: ("SignatureDoesNotMatch", 403, _MISMATCH),
    Reason.BODY: ("XAmzContentSHA256Mismatch", 400, _BODY),
}


def answer(request: Request, refused: NotVerified) -> Answer:
    """Return the refusal of a call, in the words of the service."""
    service = refused.service or _guessed(request)
    if service == "ec2":
        code, status, message = _said(_EC2, refused)
        return Answer(status, wire.error(request.id, EC2Error(code, message)))
    if service == "s3":
        return s3_error(request, *_said(_S3, refused))
    if service in ("iam", "sts") or _is_form(request):
        return _query_error(request, service, *_said(_QUERY, refused))
    return _json_error(*_said(_JSON, refused))


def denied(request: Request, service: str, message: str) -> Answer:
    """Return the refusal of a call that the caller's policies do not allow, for services other than
    EC2 and EBS.
    """
    if service == "s3":
        return s3_error(request, "AccessDenied", 403, message)
    if service in ("iam", "sts") or _is_form(request):
        return _query_error(request, service, "AccessDenied", 403, message)
    return _json_error("AccessDeniedException", 400, message)


def lacking(request: Request, service: str, action: str) -> Answer:
    """Return the refusal of an action that the lab does not have, for services other than EC2."""
    message = f"The lab's {service} does not do {action}."
    if service in ("iam", "sts") or _is_form(request):
        return _query_error(request, service, "UnsupportedOperation", 400, message)
    return _json_error("UnknownOperationException", 400, message)


def s3_error(request: Request, code: str, status: int, message: str) -> Answer:
    """Return an error in S3's form."""
    body = f"<Code>{code}</Code><Message>{escape(message)}</Message>"
    return Answer(status, _xml(f"<Error>{body}<RequestId>{request.id}</RequestId></Error>"))


def _query_error(request: Request, service: str, code: str, status: int, message: str) -> Answer:
    """Return an error in the form of the services whose requests are HTML forms, EC2 excepted."""
    body = f"<Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message>"
    space = f"https://{service or 'aws'}.amazonaws.com/doc/"
    return Answer(
        status,
        _xml(
            f'<ErrorResponse xmlns="{space}"><Error>{body}</Error>'
            f"<RequestId>{request.id}</RequestId></ErrorResponse>"
        ),
    )


def _json_error(code: str, status: int, message: str) -> Answer:
    """Return an error in the form of the services whose requests are JSON."""
    # Some of them write the name of the message small.
    body = {"__type": code, "message": message, "Message": message}
    return Answer(
        status, json.dumps(body).encode(), "application/x-amz-json-1.1", {"x-amzn-ErrorType": code}
    )


def _said(words: dict[Reason, _Said], refused: NotVerified) -> tuple[str, int, str]:
    code, status, message = words[refused.reason]
    return code, status, refused.detail if message is None else message


def _guessed(request: Request) -> str:
    """Return the service of a request whose signature does not name it."""
    if b"Version=2016-11-15" in request.body + request.query.encode():
        return "ec2"
    if request.header("X-Amz-Target") or request.path.startswith("/snapshots"):
        return ""
    return "" if _is_form(request) else "s3"


def _is_form(request: Request) -> bool:
    return "x-www-form-urlencoded" in (request.header("Content-Type") or "")


def _xml(text: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
