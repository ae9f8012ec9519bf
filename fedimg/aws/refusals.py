"""What AWS's errors mean to the process: doubt, not yet, or a failure that a person reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError

from fedimg.exceptions import EC2ServiceException, exhausted

#: All by which boto3 says that a call failed; the last for an answer that is none of AWS's, such as
#: a proxy's page, or that of an EC2 that does not have the action.
FAILURES = (ClientError, BotoCoreError, ResponseParserError)

#: Refusals that pass: the account's or EC2's own limits at this moment.
_BUSY = {
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "RequestThrottledException",
    "InternalError",
    "InternalFailure",
    "ServiceUnavailable",
    "Unavailable",
}


#: AWS does not take the caller's credentials, or not any more.
_EXPIRED = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "RequestExpired",
    "UnrecognizedClientException",
}

#: What an operator asks AWS for: when it is granted, the job need not be told.
_MENDED_ELSEWHERE = {"ResourceLimitExceeded", "SnapshotLimitExceeded", "VolumeLimitExceeded"}

#: EC2 has no room for the instance just now, or not in this zone; it says so with a status of 500.
_NO_ROOM = {
    "InsufficientInstanceCapacity",
    "InstanceLimitExceeded",
    "VcpuLimitExceeded",
    "Unsupported",
}


def code(error: Exception) -> str:
    """EC2's code for the refusal, such as `InvalidSnapshot.NotFound`; empty if it is none."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def not_found(error: Exception) -> bool:
    """Whether EC2 does not know the resource, or does not know it yet."""
    if code(error) == "ResourceNotFoundException":  # EBS's own word
        return True
    return code(error).startswith("Invalid") and code(error).endswith((".NotFound", ".Unavailable"))


def missing(id: str) -> EC2ServiceException:
    """The failure of what needs a thing that EC2 shows no more; another run makes it anew."""
    return EC2ServiceException(f"{id} is not there any more: somebody removed it", later=True)


def no_room(error: Exception) -> bool:
    """Whether EC2 could not place the instance, for now or in this zone."""
    return code(error) in _NO_ROOM


def in_doubt(error: Exception) -> bool:
    """Whether the call may pass when tried again, and may have taken effect already."""
    # A process that may open no more connections would wait for itself.
    if no_room(error) or exhausted(error):
        return False
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return code(error) in _BUSY or status >= 500
    # botocore puts a connection that failed beside its HTTP errors, not among them, and an answer
    # that is not EC2's, such as a proxy's page, beside all of its errors.
    return isinstance(error, (HTTPClientError, NoConnection, ResponseParserError))


def expired(error: Exception) -> bool:
    """Whether AWS took no credentials, or there were none: renewed ones may be on their way."""
    if isinstance(error, ClientError):
        # EC2 says AuthFailure of another account's resources, too.
        mine = not str(error.response["Error"].get("Message", "")).startswith("Not authorized for")
        return code(error) in _EXPIRED and mine
    if exhausted(error):
        return False
    without = (NoCredentialsError, CredentialRetrievalError)
    return isinstance(error, (*without, TokenRetrievalError, UnauthorizedSSOTokenError))


def passing(error: Exception) -> bool:
    """Whether the call may pass when it is tried again, later and by itself."""
    return in_doubt(error) or expired(error)


@contextmanager
def explained(
    doing: str,
    *,
    image: str,
    region: str,
    step: str,
    kind: type[EC2ServiceException] = EC2ServiceException,
) -> Iterator[None]:
    """Turn AWS's errors into `kind`, saying what was being done, where, and AWS's own words.

    A failure that has its words already is told where it happened.
    """
    try:
        yield
    except EC2ServiceException as error:
        error.image = error.image or image
        error.region = error.region or region
        error.step = error.step or step
        if isinstance(error, kind):
            raise
        raise kind(
            error.problem,
            image=error.image,
            region=error.region,
            step=error.step,
            request_id=error.request_id,
            output=error.output,
            later=error.later,
        ) from error
    except ClientError as error:
        message = error.response["Error"].get("Message", "")
        request = error.response.get("ResponseMetadata", {}).get("RequestId", "")
        raise kind(
            f"{doing}: EC2 refused with {code(error)}: {message}{_advice(error, step)}",
            image=image,
            region=region,
            step=step,
            request_id=str(request),
            later=passing(error) or no_room(error) or code(error) in _MENDED_ELSEWHERE,
        ) from error
    except (BotoCoreError, ResponseParserError) as error:
        raise kind(
            f"{doing}: could not reach EC2: {error}",
            image=image,
            region=region,
            step=step,
            later=passing(error),
        ) from error


def _advice(error: ClientError, step: str) -> str:
    advice = {
        "OperationNotPermitted": "block public access may be on there; see 'fedimg check'",
        "ResourceLimitExceeded": "ask AWS for a higher quota, then 'fedimg retry' the job",
        "UnauthorizedOperation": "the worker's IAM policy does not allow this call",
        "AccessDeniedException": "the worker's IAM policy does not allow this call",
        "AuthFailure": "check the worker's AWS credentials and that the region is enabled",
        # Elsewhere it is one of the job's own.
        "InvalidAMIID.NotFound": "check utility_ami in fedimg.toml" if step == "write" else "",
        "OptInRequired": "enable the region for the account, or exclude it in fedimg.toml",
    }.get(code(error))
    return f" ({advice})" if advice else ""
