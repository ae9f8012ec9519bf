"""What AWS's errors mean to the process: doubt, not yet, or a failure that a person reads."""

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
from fedimg.untrusted.quoting import one_line

#: All by which boto3 says that a call failed; the last for an answer that is none of AWS's, such as
#: a proxy's page, or that of an EC2 that does not have the action.
FAILURES = (ClientError, BotoCoreError, ResponseParserError)

#: By which EC2 says that it, and not the account or the call, is at fault.
_UNWELL = {"InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"}
#: The most characters of AWS's words in an error.
AWS_SAYS = 1000


def code(error: Exception) -> str:
    """EC2's code for the refusal, such as `InvalidSnapshot.NotFound`; empty if it is none."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def meaning_of(error: Exception) -> Meaning | None:
    """What is done about EC2's refusal; None if the error is none."""
    if not isinstance(error, ClientError):
        return None
    return meaning(
        code(error),
        reason=str(error.response.get("Reason") or ""),
        status=int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
    )


def not_found(error: Exception) -> bool:
    """Whether EC2 does not know the resource, or does not know it yet."""
    if code(error) == "ResourceNotFoundException":  # EBS's own word
        return True
    return code(error).startswith("Invalid") and code(error).endswith((".NotFound", ".Unavailable"))


def missing(id: str) -> EC2ServiceException:
    """The failure of what needs a thing that EC2 shows no more; another run makes it anew."""
    return EC2ServiceException(f"{id} is not there any more: somebody removed it", later=True)


def no_capacity(error: Exception) -> bool:
    """Whether EC2 could not place the instance in this subnet, or in its zone."""
    return meaning_of(error) in (Meaning.ELSEWHERE, Meaning.ELSEWHERE_OR_NEVER)


def in_doubt(error: Exception) -> bool:
    """Whether the call may pass when tried again, and may have taken effect already."""
    # A process that may open no more connections would wait for itself.
    if exhausted(error):
        return False
    if isinstance(error, ClientError):
        return meaning_of(error) is Meaning.WAIT
    # botocore puts a connection that failed beside its HTTP errors, not among them, and an answer
    # that is not EC2's, such as a proxy's page, beside all of its errors.
    return isinstance(error, (HTTPClientError, NoConnection, ResponseParserError))


def expired(error: Exception) -> bool:
    """Whether AWS took no credentials, or there were none: renewed ones may be on their way."""
    if isinstance(error, ClientError):
        # EC2 says AuthFailure of another account's resources, too.
        mine = not str(error.response["Error"].get("Message", "")).startswith("Not authorized for")
        return meaning_of(error) is Meaning.CREDENTIALS and mine
    if exhausted(error):
        return False
    without = (NoCredentialsError, CredentialRetrievalError)
    return isinstance(error, (*without, TokenRetrievalError, UnauthorizedSSOTokenError))


def region_may_refuse(error: Exception) -> bool:
    """Whether EC2 says so where the account, or its organization, does without the region."""
    return expired(error) or code(error) in {"OptInRequired", "UnauthorizedOperation"}


def silence_told_after(error: Exception) -> float | None:
    """How many seconds of such failures say that nobody answers; None when somebody does."""
    if not in_doubt(error):
        return None
    # These have waited already.
    if isinstance(error, (ConnectTimeoutError, ReadTimeoutError)):
        return 0.0
    if not isinstance(error, ClientError):
        return 10.0
    # What throttles is there.
    return 60.0 if code(error) in _UNWELL else None


def passing(error: Exception) -> bool:
    """Whether the call may pass when it is tried again, later and by itself."""
    return in_doubt(error) or expired(error)


def later(error: Exception) -> bool:
    """Whether another run may pass, without anything being mended in fedimg's configuration."""
    return passing(error) or meaning_of(error) in (Meaning.ELSEWHERE, Meaning.LATER)


def unknown(error: Exception) -> str:
    """The refusal's code, if nobody knows whether it passes; else empty."""
    return code(error) if meaning_of(error) in (Meaning.UNKNOWN, Meaning.SETTLE) else ""


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
            unknown=error.unknown,
            away=error.away,
        ) from error
    except ClientError as error:
        message = one_line(str(error.response["Error"].get("Message", "")), AWS_SAYS)
        request = error.response.get("ResponseMetadata", {}).get("RequestId", "")
        advice = _advice(error, step)
        raise kind(
            f"{doing}: EC2 refused {error.operation_name} with {code(error)}: "
            f"{message or 'it gives no reason'}{advice or _unsure(error)}",
            image=image,
            region=region,
            step=step,
            request_id=str(request),
            later=later(error),
            # Where we know what to advise, a person has something to do.
            unknown="" if advice else unknown(error),
        ) from error
    except (BotoCoreError, ResponseParserError) as error:
        raise kind(
            f"{doing}: could not reach EC2: {one_line(str(error), AWS_SAYS)}",
            image=image,
            region=region,
            step=step,
            later=passing(error),
        ) from error


_LACKING = "this EC2 does not have that call, or a proxy stands before it; see 'fedimg check'"


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
        "InvalidAction": _LACKING,
        "UnknownOperationException": _LACKING,
    }.get(code(error))
    # Where the answer is none of AWS's, botocore has HTTP's status for a code.
    if not advice and code(error).isdigit():
        advice = _LACKING
    return f" ({advice})" if advice else ""


def _unsure(error: ClientError) -> str:
    if meaning_of(error) is not Meaning.UNKNOWN:
        return ""
    return (
        " (fedimg does not know whether such a refusal passes; a job runs again by itself for it "
        f"{UNKNOWN_RUNS} times at most)"
    )
