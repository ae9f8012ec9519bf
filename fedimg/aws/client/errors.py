"""Classify AWS's errors, and turn them into failures that a person can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    ReadTimeoutError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError

from fedimg.aws.client.error_codes import UNKNOWN_RUNS, Meaning, meaning
from fedimg.exceptions import EC2ServiceException, exhausted
from fedimg.untrusted.failures import of_endpoint
from fedimg.untrusted.quoting import one_line

#: The base classes of boto3's errors; the last is raised for a response that AWS did not write,
#: such as a proxy's page, or the page of an EC2 that does not support the action.
FAILURES = (ClientError, BotoCoreError, ResponseParserError)

#: The codes of faults of EC2 itself, rather than of the account or the call.
_EC2_FAULTS = {"InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"}
#: The error codes of an EC2 that does not support an API or a call.
UNSUPPORTED = {"InvalidAction", "NoSuchResourceException", "UnknownOperationException"}
#: The most characters of AWS's message that an error quotes.
AWS_MESSAGE_LENGTH = 1000


def code(error: Exception) -> str:
    """Return EC2's error code, such as `InvalidSnapshot.NotFound`; empty for other errors."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def meaning_of(error: Exception) -> Meaning | None:
    """Return how EC2's refusal is handled; None for other errors."""
    if not isinstance(error, ClientError):
        return None
    return meaning(
        code(error),
        reason=str(error.response.get("Reason") or ""),
        status=int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
    )


def not_found(error: Exception) -> bool:
    """Return whether EC2 does not know the resource, or does not know it yet."""
    if code(error) == "ResourceNotFoundException":  # the EBS direct API's code
        return True
    return code(error).startswith("Invalid") and code(error).endswith((".NotFound", ".Unavailable"))


def missing(id: str) -> EC2ServiceException:
    """Return the failure for a resource that EC2 no longer lists; another run creates it anew."""
    return EC2ServiceException(
        f"{id} no longer exists: it was removed outside of this job", later=True
    )


def no_capacity(error: Exception) -> bool:
    """Return whether EC2 could not place the instance in this subnet or its zone."""
    return meaning_of(error) in (Meaning.ELSEWHERE, Meaning.ELSEWHERE_OR_NEVER)


def in_doubt(error: Exception) -> bool:
    """Return whether the call may pass when retried, and may have taken effect already."""
    # When this process may open no more files or connections, waiting does not help.
    if exhausted(error):
        return False
    if isinstance(error, ClientError):
        return meaning_of(error) is Meaning.WAIT
    # botocore's classes of failed connections and of unreadable responses are no subclasses of
    # HTTPClientError.
    return isinstance(error, (HTTPClientError, NoConnection, ResponseParserError))


def expired(error: Exception) -> bool:
    """Return whether AWS rejected the credentials, or there were none: new ones may follow."""
    if isinstance(error, ClientError):
        # EC2 answers AuthFailure for another account's resources, too.
        own = not str(error.response["Error"].get("Message", "")).startswith("Not authorized for")
        return meaning_of(error) is Meaning.CREDENTIALS and own
    if exhausted(error):
        return False
    without = (NoCredentialsError, CredentialRetrievalError)
    return isinstance(error, (*without, TokenRetrievalError, UnauthorizedSSOTokenError))


def region_may_refuse(error: Exception) -> bool:
    """Return whether the error is one that EC2 gives where the account may not use the region."""
    return expired(error) or code(error) in {"OptInRequired", "UnauthorizedOperation"}


def outage_after(error: Exception) -> float | None:
    """Return after how many seconds such failures are an outage; None when EC2 itself answers."""
    if not in_doubt(error):
        return None
    # Such a call has waited for its timeout already.
    if isinstance(error, (ConnectTimeoutError, ReadTimeoutError)):
        return 0.0
    if not isinstance(error, ClientError):
        return 10.0
    # A region that throttles is available.
    return 60.0 if code(error) in _EC2_FAULTS else None


def passing(error: Exception) -> bool:
    """Return whether a retry of the call may pass, without any change by a person."""
    return in_doubt(error) or expired(error)


def surely_refused(error: Exception) -> bool:
    """Return whether AWS refused the call, so that it had no effect."""
    if not isinstance(error, ClientError):
        return False
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)) < 500


def later(error: Exception) -> bool:
    """Return whether another run may pass, without a change of fedimg's configuration."""
    return passing(error) or meaning_of(error) in (Meaning.ELSEWHERE, Meaning.LATER)


def quota_met(error: Exception) -> bool:
    """Return whether EC2 refused a call because of a quota of the account."""
    return meaning_of(error) is Meaning.LATER and any(
        word in code(error) for word in ("LimitExceeded", "Quota")
    )


def unknown(error: Exception) -> str:
    """Return the error code if it is unknown whether the refusal passes; else empty."""
    return code(error) if meaning_of(error) in (Meaning.UNKNOWN, Meaning.SETTLE) else ""


@contextmanager
def explained(
    doing: str,
    *,
    image: str,
    region: str,
    step: str,
    exception_type: type[EC2ServiceException] = EC2ServiceException,
    service: str = "EC2",
) -> Iterator[None]:
    """Turn AWS's errors into `exception_type`, saying what was being done, where, and quoting AWS.

    `service` is whose errors they are, in words. An EC2ServiceException keeps its text, and gets
    image, region and step where they are empty.
    """
    try:
        yield
    except EC2ServiceException as error:
        error.image = error.image or image
        error.region = error.region or region
        error.step = error.step or step
        if isinstance(error, exception_type):
            raise
        raise exception_type(
            error.problem,
            image=error.image,
            region=error.region,
            step=error.step,
            request_id=error.request_id,
            output=error.output,
            later=error.later,
            unknown=error.unknown,
            away=error.away,
            no_room=error.no_room,
            over_quota=error.over_quota,
        ) from error
    except ClientError as error:
        message = one_line(str(error.response["Error"].get("Message", "")), AWS_MESSAGE_LENGTH)
        request = error.response.get("ResponseMetadata", {}).get("RequestId", "")
        advice = _advice(error, step)
        raise exception_type(
            f"{doing}: {service} refused {error.operation_name} with {code(error)}: "
            f"{message or 'no reason given'}{advice or _retry_note(error)}",
            image=image,
            region=region,
            step=step,
            request_id=str(request),
            later=later(error),
            # With advice, a person has to act first, so a retry is of no use.
            unknown="" if advice else unknown(error),
        ) from error
    except (BotoCoreError, ResponseParserError) as error:
        raise exception_type(
            f"{doing}: could not reach {service}: {of_endpoint(error)}",
            image=image,
            region=region,
            step=step,
            later=passing(error),
        ) from error


_LACKING = "this EC2 does not support the call, or a proxy answered; run 'fedimg check'"


def _advice(error: ClientError, step: str) -> str:
    advice = {
        "OperationNotPermitted": "block public access may be on in this region; run 'fedimg check'",
        "ResourceLimitExceeded": "request a higher quota from AWS, then run 'fedimg retry'",
        "UnauthorizedOperation": "the worker's IAM policy does not allow this call",
        "AccessDeniedException": "the worker's IAM policy does not allow this call",
        "AuthFailure": "check the worker's AWS credentials and that the region is enabled",
        # In other steps the AMI is one of the job's own.
        "InvalidAMIID.NotFound": "check utility_ami in fedimg.toml" if step == "write" else "",
        "OptInRequired": "enable the region for the account, or add it to ec2.exclude_regions",
        "InvalidAction": _LACKING,
        "UnknownOperationException": _LACKING,
    }.get(code(error))
    # For a response that AWS did not write, botocore uses the HTTP status as the code.
    if not advice and code(error).isdigit():
        advice = _LACKING
    return f" ({advice})" if advice else ""


def _retry_note(error: ClientError) -> str:
    if meaning_of(error) is not Meaning.UNKNOWN:
        return ""
    return (
        " (fedimg does not know this error code; it retries the job at most "
        f"{UNKNOWN_RUNS} times because of it)"
    )
