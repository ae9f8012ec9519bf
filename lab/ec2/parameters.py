"""The parameters of SSM's Parameter Store: names, tiers, and values that EC2 has to confirm."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lab.ec2.errors import EC2Error
from lab.ec2.partitions import partition_of

IMAGE = "aws:ec2:image"
TEXT = "text"
#: The data types that the lab takes; AWS has more, which nothing here puts.
DATA_TYPES = (TEXT, IMAGE)
STANDARD, ADVANCED = "Standard", "Advanced"
#: The most characters of a name, those of its ARN included, and the most levels of a hierarchy.
MOST_CHARACTERS, DEEPEST = 1011, 15
MOST_BYTES = {STANDARD: 4096, ADVANCED: 8192}
IMAGE_ID = re.compile(r"ami-(?:[0-9a-f]{8}|[0-9a-f]{17})")
_NAME = re.compile(r"[A-Za-z0-9_.\-/]+")


@dataclass
class Parameter:
    """One parameter; `id` is its name, and its `value` is one that was confirmed."""

    id: str
    owner: str
    region: str
    value: str
    data_type: str
    tier: str
    description: str = ""
    version: int = 1
    modified: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def arn(self) -> str:
        """Return the parameter's ARN."""
        return arn(self.region, self.owner, self.id)


def arn(region: str, account: str, name: str) -> str:
    """Return the ARN of a parameter: a name in a hierarchy brings its own slash."""
    return f"arn:{partition_of(region)}:ssm:{region}:{account}:parameter/{name.removeprefix('/')}"


def check_name(region: str, account: str, name: str) -> None:
    """Raise EC2Error for a name that Parameter Store does not take."""
    if not _NAME.fullmatch(name):
        raise _invalid(
            "Parameter name must not contain characters other than a-z, A-Z, 0-9, '.', '-', '_' "
            "and '/'."
        )
    if "/" in name and (not name.startswith("/") or name.endswith("/") or "//" in name):
        raise _invalid(
            "Parameter name must be a fully qualified name: a hierarchy begins with a forward "
            "slash, and no level of it is empty."
        )
    first = name.lstrip("/").lower()
    if name.startswith("/") and first.startswith(("aws", "ssm")):
        raise EC2Error("AccessDeniedException", f"No access to reserved parameter name: {name}.")
    if first.startswith(("aws", "ssm")):
        raise _invalid('Parameter name: can\'t be prefixed with "aws" or "ssm" (case-insensitive).')
    if len(arn(region, account, name)) > MOST_CHARACTERS:
        raise _invalid(
            f"Parameter name: the length of the fully qualified name must be at most "
            f"{MOST_CHARACTERS} characters, its ARN included."
        )
    if name.count("/") > DEEPEST:
        raise EC2Error(
            "HierarchyLevelLimitExceededException",
            f"The hierarchy can have at most {DEEPEST} levels.",
        )


def check_value(value: str, tier: str) -> None:
    """Raise EC2Error for a value that Parameter Store does not take at once."""
    if not value:
        raise _invalid("Value must have length greater than or equal to 1.")
    if "{{" in value:
        raise _invalid("Parameter value can't nest another parameter.")
    if len(value.encode()) > MOST_BYTES[tier]:
        raise _invalid(
            f"{tier} tier parameters support a maximum parameter value of {MOST_BYTES[tier]} "
            "characters."
        )


def _invalid(message: str) -> EC2Error:
    return EC2Error("ValidationException", message)
