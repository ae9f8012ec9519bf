"""EC2's refusals, as one exception; whoever raises it knows the code and the text."""

# EC2 answers 4xx to a caller's mistake and 5xx to its own, and SDKs retry the second kind only.
STATUS = {
    "DryRunOperation": 412,
    "InternalError": 500,
    "InternalFailure": 500,
    "InternalServerException": 500,
    "InsufficientInstanceCapacity": 500,
    "RequestLimitExceeded": 503,
    "ServiceUnavailable": 503,
    "Unavailable": 503,
    "AuthFailure": 401,
    "UnauthorizedOperation": 403,
    "AccessDeniedException": 403,
    "ExpiredTokenException": 403,
    "ResourceNotFoundException": 404,
    "ConflictException": 409,
    "ServiceQuotaExceededException": 402,
}


class EC2Error(Exception):
    """A refusal: `code` and `message` as EC2 puts them, `status` as HTTP has it.

    `reason` is the EBS direct API's second, finer code.
    """

    def __init__(self, code: str, message: str, reason: str | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.reason = reason

    @property
    def status(self) -> int:
        return STATUS.get(self.code, 400)


def missing(parameter: str) -> EC2Error:
    return EC2Error("MissingParameter", f"The request must contain the parameter {parameter}")


def invalid(value: object, parameter: str, why: str = "") -> EC2Error:
    tail = f" {why}" if why else ""
    return EC2Error(
        "InvalidParameterValue", f"Value ({value}) for parameter {parameter} is invalid.{tail}"
    )


def combination(message: str) -> EC2Error:
    return EC2Error("InvalidParameterCombination", message)


def not_found(code: str, noun: str, ids: list[str]) -> EC2Error:
    """Such as `InvalidInstanceID.NotFound`; EC2 changes the words when several are unknown."""
    if len(ids) == 1:
        return EC2Error(code, f"The {noun} ID '{ids[0]}' does not exist")
    return EC2Error(code, f"The {noun} IDs '{', '.join(ids)}' do not exist")
