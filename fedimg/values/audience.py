"""Define the audience of a private AMI: the accounts and organizations that may use it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Valid ids of AWS accounts, and ARNs of organizations and of organizational units, as EC2 takes
#: them; the first group of an ARN is its partition.
ACCOUNT = re.compile(r"[0-9]{12}")
ORGANIZATION = re.compile(
    r"arn:([a-z][a-z-]*):organizations::[0-9]{12}:organization/o-[a-z0-9]{10,32}"
)
ORGANIZATIONAL_UNIT = re.compile(
    r"arn:([a-z][a-z-]*):organizations::[0-9]{12}:ou/o-[a-z0-9]{10,32}"
    r"/ou-[0-9a-z]{4,32}-[0-9a-z]{8,32}"
)
#: EC2's name for each part of an audience, in a list of permissions.
_EC2_NAMES = {
    "accounts": "UserId",
    "organizations": "OrganizationArn",
    "organizational_units": "OrganizationalUnitArn",
}
_SINGULAR = {
    "accounts": "account",
    "organizations": "organization",
    "organizational_units": "organizational unit",
}


@dataclass(frozen=True)
class Audience:
    """Those with whom a private AMI is shared: ids of accounts, and ARNs; nobody if all are empty.

    The ids are for EC2 and the database alone: messages, logs and pages have `counts`, or `str`.
    """

    accounts: tuple[str, ...] = ()
    organizations: tuple[str, ...] = ()
    organizational_units: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Return whether there is anybody in it."""
        return bool(len(self))

    def __len__(self) -> int:
        """Return the number of entities, as the quota of AMI sharing counts them."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        """Return the audience in words, such as `2 accounts and 1 organization`."""
        parts = [
            f"{count} {_SINGULAR[part]}{'s' if count != 1 else ''}"
            for part, count in self.counts.items()
            if count
        ]
        return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]])) or "nobody"

    @property
    def counts(self) -> dict[str, int]:
        """Return the numbers of accounts, organizations and organizational units."""
        return {part: len(getattr(self, part)) for part in _EC2_NAMES}

    def launch_permissions(self) -> list[dict[str, str]]:
        """Return the permissions of an AMI, as EC2 lists them."""
        return [{name: each} for part, name in _EC2_NAMES.items() for each in getattr(self, part)]

    def volume_permissions(self) -> list[dict[str, str]]:
        """Return the permissions of a snapshot: EC2 shares snapshots with accounts alone."""
        return [{"UserId": account} for account in self.accounts]

    def plus(self, other: Audience) -> Audience:
        """Return this audience with another one's members, each once."""
        return Audience(
            *(
                tuple(dict.fromkeys((*getattr(self, part), *getattr(other, part))))
                for part in _EC2_NAMES
            )
        )

    def minus(self, other: Audience) -> Audience:
        """Return this audience without another one's members."""
        return Audience(
            *(
                tuple(each for each in getattr(self, part) if each not in getattr(other, part))
                for part in _EC2_NAMES
            )
        )

    def same_as(self, other: Audience) -> bool:
        """Return whether two audiences have the same members, in any order."""
        return not self.minus(other) and not other.minus(self)


def of_permissions(permissions: Iterable[Mapping[str, str]]) -> Audience:
    """Return the audience that a list of permissions of EC2's names; a group is none."""
    found: dict[str, list[str]] = {part: [] for part in _EC2_NAMES}
    for permission in permissions:
        for part, name in _EC2_NAMES.items():
            if name in permission:
                found[part].append(permission[name])
    return Audience(*(tuple(sorted(each)) for each in found.values()))


def fault(part: str, text: str, partition: str) -> str:
    """Return why EC2 takes no such member of a part of an audience, or an empty text.

    `part` is a field of Audience, `partition` that of the site.
    """
    if part == "accounts":
        return "" if ACCOUNT.fullmatch(text) else "is not an account's id, which has 12 digits"
    form, example = {
        "organizations": (ORGANIZATION, "organization/o-exampleorgid"),
        "organizational_units": (ORGANIZATIONAL_UNIT, "ou/o-exampleorgid/ou-exam-12345678"),
    }[part]
    match = form.fullmatch(text)
    if match is None:
        return (
            f"is not the ARN of an {_SINGULAR[part]}, such as "
            f"arn:{partition}:organizations::123456789012:{example}"
        )
    if match[1] != partition:
        return f"is in another partition than ec2.origin, which is in {partition}"
    return ""
