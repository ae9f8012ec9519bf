"""Test how EC2's codes are handled: by name, by pattern, or as unknown."""

import re
from pathlib import Path

import pytest

from fedimg.aws.client.error_codes import Meaning, meaning

#: Each class with codes that EC2, EBS or Service Quotas document, and some that none of them does.
CODES = {
    Meaning.WAIT: """
        RequestLimitExceeded Throttling RequestThrottledException TooManyRequestsException
        ConcurrentLimitExceededException ConcurrentTagAccess ConcurrentSnapshotLimitExceeded
        PendingSnapshotLimitExceeded SnapshotCreationPerVolumeRateExceeded RequestTimeout
        ConcurrentCreateImageNoRebootLimitExceeded RequestTimeoutException SomethingThrottled
    """,
    Meaning.CREDENTIALS: "AuthFailure ExpiredToken InvalidClientTokenId RequestExpired",
    Meaning.SETTLE: """
        InvalidSnapshot.NotFound InvalidAMIID.NotFound InvalidAMIID.Unavailable
        ResourceNotFoundException
    """,
    Meaning.ELSEWHERE: """
        InsufficientInstanceCapacity InsufficientFreeAddressesInSubnet InsufficientCapacityOnHost
        InsufficientReservedInstancesCapacity
    """,
    Meaning.ELSEWHERE_OR_NEVER: "Unsupported VolumeTypeNotAvailableInZone",
    Meaning.LATER: """
        ResourceLimitExceeded InstanceLimitExceeded VcpuLimitExceeded MaxIOPSLimitExceeded
        SnapshotLimitExceeded ServiceQuotaExceededException QuotaExceededException
        PendingVerification SecurityGroupLimitExceeded AddressLimitExceeded IncorrectState
        InvalidGroup.InUse BundlingInProgress SomethingLimitExceeded
    """,
    Meaning.NEVER: """
        TagLimitExceeded TooManyTagsException InvalidParameter InvalidParameterValue
        InvalidParameterCombination InvalidSubnetID.NotFound InvalidAMIID.Malformed
        InvalidBlockDeviceMapping MalformedQueryString MissingParameter UnknownParameter
        UnsupportedOperation UnsupportedInstanceAttribute UnauthorizedOperation
        AccessDeniedException OperationNotPermitted OptInRequired InvalidAction
        NoSuchResourceException InsufficientPermissions FilterLimitExceeded
        RulesPerSecurityGroupLimitExceeded Blocked
    """,
    Meaning.UNKNOWN: "Strange IdempotentParameterMismatch ConflictException",
}


@pytest.mark.parametrize(
    ("code", "expected"),
    [(code, expected) for expected, codes in CODES.items() for code in codes.split()],
)
def test_error_code_has_its_documented_meaning(code: str, expected: Meaning) -> None:
    assert meaning(code) is expected


@pytest.mark.parametrize("status", [429, 500, 503])
def test_failure_on_aws_side_passes_whatever_its_code(status: int) -> None:
    assert meaning("Strange", status=status) is Meaning.WAIT
    assert meaning("InvalidStrange", status=status) is Meaning.WAIT


def test_error_code_decides_before_the_http_status() -> None:
    # EC2 says so with 500, and to wait for room in one place is no use.
    assert meaning("InsufficientInstanceCapacity", status=500) is Meaning.ELSEWHERE
    assert meaning("TagLimitExceeded", status=503) is Meaning.NEVER


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("WRITE_REQUEST_TIMEOUT", Meaning.WAIT),
        ("CONFLICTING_BLOCK_UPDATE", Meaning.WAIT),
        ("INVALID_BLOCK", Meaning.NEVER),
        ("", Meaning.UNKNOWN),
    ],
)
def test_ebs_validation_means_what_its_reason_says(reason: str, expected: Meaning) -> None:
    assert meaning("ValidationException", reason=reason) is expected


#: The rows of the table in docs/operations.md, by the beginning of their first cell.
ROWS = {
    "throttling": Meaning.WAIT,
    "no valid credentials": Meaning.CREDENTIALS,
    "a resource is unknown": Meaning.SETTLE,
    "no capacity": Meaning.ELSEWHERE,
    "instance type not offered": Meaning.ELSEWHERE_OR_NEVER,
    "a quota is used up": Meaning.LATER,
    "the account or the configuration": Meaning.NEVER,
}


@pytest.mark.parametrize(("row", "expected"), ROWS.items())
def test_codes_of_the_documented_table_are_handled_as_it_says(row: str, expected: Meaning) -> None:
    page = (Path(__file__).parents[3] / "docs/operations.md").read_text()
    (cells,) = re.findall(rf"^\| {row}[^|]*\|([^|]*)\|", page, re.MULTILINE)
    # What follows a semicolon is about another API's reasons.
    codes = re.findall(r"`([A-Za-z.*]+)`", cells.split(";")[0])
    assert codes
    # A form stands for the codes that have something in place of its asterisks.
    assert {code: meaning(code.replace("*", "Strange")) for code in codes} == dict.fromkeys(
        codes, expected
    )
