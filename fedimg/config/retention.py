"""Define the settings of retention: which AMIs are deprecated, disabled and removed, and when.

TOML does not allow a table and an array of tables of one name, so that the rules are
`[[retention.rules]]`, next to the settings of `[retention]`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from fedimg.config.section import Section
from fedimg.config.value_types import Pattern
from fedimg.images import Architecture
from fedimg.untrusted import patterns

#: The fewest days between the disabling of an AMI, which can be taken back, and its removal.
GRACE_DAYS = 14
#: EC2 deprecates each public AMI by itself two years after its creation, and takes no later date.
DEPRECATION_DAYS = 730


class Rule(Section):
    """One rule of retention; the first one that matches an AMI decides about it."""

    patterns: list[Pattern] = Field(
        [],
        description="Regular expressions; an image's name has to match one of them; empty: all.",
    )
    architectures: list[Literal["x86_64", "aarch64"]] = Field(
        [], description="Architectures of the images, by Koji's names; empty: all."
    )
    deprecate_after: NonNegativeInt = Field(
        0,
        le=DEPRECATION_DAYS,
        description="Days after which an AMI is deprecated; 0: only EC2 itself does that.",
    )
    disable_after: NonNegativeInt = Field(
        0, description="Days after which an AMI is disabled; 0: never."
    )
    delete_after: NonNegativeInt = Field(
        0,
        description="Days after which a disabled AMI is removed with its snapshot; 0: never.",
    )
    keep_newest: NonNegativeInt = Field(
        1,
        description="So many of the newest public AMIs of each release, architecture, AMI type and "
        "region are kept whatever their age.",
    )
    unused_for: PositiveInt = Field(
        1,
        description="An AMI from which an instance was launched within so many days is neither "
        "disabled nor removed.",
    )

    @model_validator(mode="after")
    def _check_order(self) -> Rule:
        if self.delete_after and not self.disable_after:
            raise ValueError(
                "delete_after needs disable_after: an AMI is removed only after it was disabled "
                f"for {GRACE_DAYS} days or more"
            )
        if self.delete_after and self.delete_after < self.disable_after + GRACE_DAYS:
            raise ValueError(
                f"delete_after has to be {self.disable_after + GRACE_DAYS} or more: an AMI is "
                f"removed only after it was disabled for {GRACE_DAYS} days or more"
            )
        if 0 < self.disable_after < self.deprecate_after:
            raise ValueError(
                "deprecate_after has more days than disable_after: a disabled AMI need not be "
                "deprecated any more"
            )
        return self

    def matches(self, image: str, architecture: str) -> bool:
        """Return whether the rule is for an image of this name and EC2's `architecture`."""
        names = [str(Architecture.from_koji(name)) for name in self.architectures]
        return (not names or architecture in names) and (
            not self.patterns or any(patterns.matches(each, image) for each in self.patterns)
        )


class Retention(Section):
    """The time for which public AMIs are kept."""

    automatic: bool = Field(
        False,
        description="Whether the worker applies the rules by itself; otherwise only 'fedimg prune' "
        "does.",
    )
    most_a_day: PositiveInt = Field(
        500,
        description="Most AMIs that the worker by itself deprecates, disables and removes within "
        "24 hours, of all regions together.",
    )
    rules: list[Rule] = Field(
        [], description="The rules, in order; AMIs that none of them matches are kept."
    )

    @property
    def changes_anything(self) -> bool:
        """Return whether a rule deprecates or disables AMIs; a rule without days keeps them."""
        return any(rule.deprecate_after or rule.disable_after for rule in self.rules)
