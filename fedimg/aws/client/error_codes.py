"""What each of AWS's error codes means to a job: one table, of names first, then of shapes.

The names are those of EC2's documentation ("Error codes for the Amazon EC2 API"), of the EBS
direct API and of Service Quotas. New ones come without notice: the rest is known by its shape.
"""

from __future__ import annotations

from enum import Enum
from fnmatch import fnmatchcase


class Meaning(Enum):
    """What is done about a refused call."""

    #: It is made again until it passes, for as long as an outage may last; then the job runs again.
    WAIT = "waited for within the call"
    #: So it is; meanwhile new credentials may come.
    CREDENTIALS = "waited for, with the credentials read again"
    #: It is made again until EC2 must know the resource everywhere; then as UNKNOWN.
    SETTLE = "waited for until EC2 has settled"
    #: The instance is started in another subnet, in another attempt, then in another run.
    ELSEWHERE = "tried in another place"
    #: The instance is started in another zone; where no zone is left, a person has to choose.
    ELSEWHERE_OR_NEVER = "tried in another zone, then final"
    #: The job runs again by itself.
    LATER = "runs again later"
    #: A person has to change something first.
    NEVER = "final"
    #: The job runs again UNKNOWN_RUNS times: it may have been a refusal that passes.
    UNKNOWN = "unknown"


#: In how many further runs a code is tried that nobody knows.
UNKNOWN_RUNS = 2

_NAMES: dict[Meaning, str] = {
    Meaning.WAIT: """
        RequestLimitExceeded Throttling ThrottlingException RequestThrottledException
        TooManyRequestsException SlowDown EC2ThrottledException
        ConcurrentLimitExceededException ConcurrentTagAccess ConcurrentSnapshotLimitExceeded
        PendingSnapshotLimitExceeded SnapshotCreationPerVolumeRateExceeded
        InternalError InternalFailure InternalServerException ServiceUnavailable Unavailable
        RequestTimeout RequestTimeoutException
    """,
    Meaning.CREDENTIALS: """
        AuthFailure ExpiredToken ExpiredTokenException InvalidClientTokenId RequestExpired
        UnrecognizedClientException
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

#: The first that fits decides. What limits one request or one resource is no matter of time.
_SHAPES: tuple[tuple[str, Meaning], ...] = (
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

#: EBS's codes that say nothing without their reason: what each reason means.
_REASONS = {
    "ValidationException": {
        "WRITE_REQUEST_TIMEOUT": Meaning.WAIT,
        "CONFLICTING_BLOCK_UPDATE": Meaning.WAIT,
        "": Meaning.UNKNOWN,
    },
}

_KNOWN = {name: meaning for meaning, names in _NAMES.items() for name in names.split()}


def meaning(code: str, *, reason: str = "", status: int = 400) -> Meaning:
    """Return what is done about a call that was refused with this code and HTTP status.

    `reason` is the EBS direct API's second, finer code. A code that is known by name means the
    same with every status; any other with a status of 500 or more, or 429, is a failure on AWS's
    side, which passes.
    """
    if known := _KNOWN.get(code):
        return known
    if reasons := _REASONS.get(code):
        return reasons.get(reason, Meaning.NEVER)
    if status >= 500 or status == 429:
        return Meaning.WAIT
    for shape, found in _SHAPES:
        if fnmatchcase(code, shape):
            return found
    return Meaning.UNKNOWN
