"""Define the settings of the audience with whom private AMIs are shared."""

from __future__ import annotations

from pydantic import Field, model_validator

from fedimg.config.section import Section
from fedimg.values.audience import Audience

#: The beginning of the regions' names in each partition but AWS's own.
_PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov", "eusc-": "aws-eusc"}


def partition_of(region: str) -> str:
    """Return the partition of a region, by its name."""
    found = (partition for start, partition in _PARTITIONS.items() if region.startswith(start))
    return next(found, "aws")


class Share(Section):
    """The accounts, organizations and organizational units that may use private AMIs."""

    accounts: list[str] = Field([], description="Ids of AWS accounts, each of 12 digits.")
    organizations: list[str] = Field(
        [], description="ARNs of organizations, such as arn:aws:organizations::…:organization/o-…."
    )
    organizational_units: list[str] = Field(
        [],
        description="ARNs of organizational units, such as arn:aws:organizations::…:ou/o-…/ou-….",
    )

    @model_validator(mode="after")
    def _members_are_named_once(self) -> Share:
        for part, members in self:
            if twice := sorted({each for each in members if members.count(each) > 1}):
                raise ValueError(f"{part} names {twice[0]} twice")
        return self

    @property
    def audience(self) -> Audience:
        """Return the audience."""
        return Audience(
            tuple(self.accounts), tuple(self.organizations), tuple(self.organizational_units)
        )

    @classmethod
    def of(cls, audience: Audience) -> Share:
        """Return the settings of an audience."""
        return cls.model_construct(
            accounts=list(audience.accounts),
            organizations=list(audience.organizations),
            organizational_units=list(audience.organizational_units),
        )
