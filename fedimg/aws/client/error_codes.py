"""Map AWS's error codes to how a job handles them: by name first, then by pattern.

The names are those of EC2's documentation ("Error codes for the Amazon EC2 API"), of the EBS direct
API, of S3 and of Service Quotas. AWS adds codes without notice; the patterns cover those.
"""

from __future__ import annotations

from enum import Enum
from fnmatch import fnmatchcase


class Meaning(Enum):
    """The way in which a refused call is handled."""

    #: The call is retried until the outage limit; then the job is retried.
    WAIT = "call is retried"
    #: Like WAIT; meanwhile new credentials may arrive.
    CREDENTIALS = "call is retried with the credentials read again"
    #: The call is retried until EC2 must know the resource everywhere; then it is UNKNOWN.
    SETTLE = "call is retried until EC2 knows the resource"
    #: The instance is started in another subnet, then by another attempt, then by another run.
    ELSEWHERE = "retried in another subnet"
    #: The instance is started in another zone; when no zone is left, a person has to choose.
    ELSEWHERE_OR_NEVER = "retried in another zone, then final"
    #: The job is retried automatically.
    LATER = "job is retried later"
    #: A person has to change something first.
    NEVER = "final"
    #: The job is retried UNKNOWN_RUNS times, since the refusal may pass.
    UNKNOWN = "unknown"


#: How many times a job is retried because of an unknown code.
UNKNOWN_RUNS = 2

_NAMES: dict[Meaning, str] = {
    Meaning.WAIT: """
        RequestLimitExceeded Throttling ThrottlingException RequestThrottledException
        TooManyRequestsException SlowDown EC2ThrottledException
        ConcurrentLimitExceededException ConcurrentTagAccess ConcurrentSnapshotLimitExceeded
        TooManyUpdates
        PendingSnapshotLimitExceeded SnapshotCreationPerVolumeRateExceeded
        InternalError InternalFailure InternalServerException ServiceUnavailable Unavailable
        RequestTimeout RequestTimeoutException
        OperationAborted BadDigest IncompleteBody XAmzContentSHA256Mismatch
    """,
    Meaning.CREDENTIALS: """
        AuthFailure ExpiredToken ExpiredTokenException InvalidClientTokenId RequestExpired
        UnrecognizedClientException InvalidAccessKeyId InvalidToken TokenRefreshRequired
    """,
    Meaning.ELSEWHERE: """
        InsufficientInstanceCapacity InsufficientFreeAddressesInSubnet InsufficientCapacity
        InsufficientVolumeCapacity InsufficientCapacityOnHost
    """,
    Meaning.ELSEWHERE_OR_NEVER: "Unsupported VolumeTypeNotAvailableInZone",
    Meaning.LATER: """
        ResourceLimitExceeded InstanceLimitExceeded VcpuLimitExceeded MaxIOPSLimitExceeded
        SnapshotLimitExceeded VolumeLimitExceeded SecurityGroupLimitExceeded KeyPairLimitExceeded
        NetworkInterfaceLimitExceeded MaxSpotInstanceCountExceeded
        ServiceQuotaExceededException QuotaExceededException
        PendingVerification
        IncorrectState IncorrectInstanceState IdempotentInstanceTerminated VolumeInUse
    """,
    Meaning.NEVER: """
        Blocked OptInRequired OperationNotPermitted
        UnauthorizedOperation AccessDenied AccessDeniedException DependencyAccessDeniedException
        SignatureDoesNotMatch IncompleteSignature
        TagLimitExceeded TooManyTagsException TagPolicyViolation TagPolicyViolationException
        FilterLimitExceeded AttachmentLimitExceeded RulesPerSecurityGroupLimitExceeded
        SecurityGroupsPerInstanceLimitExceeded SecurityGroupsPerInterfaceLimitExceeded
        PrivateIpAddressLimitExceeded ResourceCountExceeded RequestResourceCountExceeded
        VolumeIOPSLimit DiskImageSizeTooLarge LimitPriceExceeded
        InvalidSubnetID.NotFound InvalidVpcID.NotFound
        BootForVolumeTypeUnsupported SnapshotCopyUnsupported.InterRegion CustomerKeyHasBeenRevoked
        InvalidAction NoSuchVersion NoSuchResourceException IllegalArgumentException
        ValidationError VPCIdNotSpecified DefaultVpcDoesNotExist
    """,
}

#: The first match decides. Limits of one request or one resource do not pass with time.
_PATTERNS: tuple[tuple[str, Meaning], ...] = (
    ("Invalid*.NotFound", Meaning.SETTLE),
    ("Invalid*.Unavailable", Meaning.SETTLE),
    ("ResourceNotFoundException", Meaning.SETTLE),
    ("*.InUse", Meaning.LATER),
    ("*Permission*", Meaning.NEVER),
    ("*Privilege*", Meaning.NEVER),
    ("*Unauthorized*", Meaning.NEVER),
    ("*AccessDenied*", Meaning.NEVER),
    ("*Forbidden*", Meaning.NEVER),
    ("Invalid*", Meaning.NEVER),
    ("Malformed*", Meaning.NEVER),
    ("*Malformed*", Meaning.NEVER),
    ("Missing*", Meaning.NEVER),
    ("Unknown*", Meaning.NEVER),
    ("Unsupported*", Meaning.NEVER),
    ("*NotSupported*", Meaning.NEVER),
    ("*Tag*LimitExceeded*", Meaning.NEVER),
    ("*Throttl*", Meaning.WAIT),
    ("Concurrent*", Meaning.WAIT),
    ("*ConcurrentLimitExceeded*", Meaning.WAIT),
    ("RequestTimeout*", Meaning.WAIT),
    ("TooManyRequests*", Meaning.WAIT),
    ("*RateExceeded*", Meaning.WAIT),
    ("*ServiceUnavailable*", Meaning.WAIT),
    ("*Quota*", Meaning.LATER),
    ("*LimitExceeded*", Meaning.LATER),
    ("*InProgress*", Meaning.LATER),
    ("Pending*", Meaning.LATER),
    ("Insufficient*", Meaning.ELSEWHERE),
)

#: Codes of the EBS direct API that depend on their reason.
_REASONS = {
    "ValidationException": {
        "WRITE_REQUEST_TIMEOUT": Meaning.WAIT,
        "CONFLICTING_BLOCK_UPDATE": Meaning.WAIT,
        "": Meaning.UNKNOWN,
    },
}

_KNOWN = {name: meaning for meaning, names in _NAMES.items() for name in names.split()}


def meaning(code: str, *, reason: str = "", status: int = 400) -> Meaning:
    """Return how a call that was refused with this code and HTTP status is handled.

    `reason` is the EBS direct API's second, finer code. A code that is listed by name means the
    same with every status; any other with a status of 500 or more, or 429, is a passing failure of
    AWS.
    """
    if known := _KNOWN.get(code):
        return known
    if reasons := _REASONS.get(code):
        return reasons.get(reason, Meaning.NEVER)
    if status >= 500 or status == 429:
        return Meaning.WAIT
    for pattern, matched in _PATTERNS:
        if fnmatchcase(code, pattern):
            return matched
    return Meaning.UNKNOWN
