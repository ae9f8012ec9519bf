"""Define the settings of the boot checks: the shipped ones, and the site's own."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt

from fedimg.config.section import Section
from fedimg.config.value_types import CheckedType, GivenAddress, OptionalAddress, Pattern
from fedimg.images import AMIType, Architecture

#: The boot checks that fedimg ships, in the order in which they run.
ShippedCheck = Literal[
    "units", "cloud-init", "root-size", "pristine", "network", "clock", "selinux", "reboot"
]


class Checking(Section):
    """The AMIs that are booted, and the shipped boot checks that they have to pass."""

    amis: Literal["virtualizations", "types"] = Field(
        "virtualizations",
        description="Boot one AMI of each virtualization type, or one of each AMI type.",
    )
    regions: list[str] = Field(
        [],
        description="Regions beside the origin where copied AMIs are booted before they become "
        "public.",
    )
    subnets: dict[str, Annotated[str, Field(pattern=r"^subnet-[0-9a-f]{8,17}$")]] = Field(
        {}, description="Region → subnet of test instances; elsewhere a subnet of the default VPC."
    )
    shipped: list[ShippedCheck] = Field(
        list(get_args(ShippedCheck)), description="The shipped boot checks that run."
    )
    reach: list[GivenAddress] = Field(
        [], description="Web addresses that the check `network` has to reach."
    )
    resolve: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,253}$")]] = Field(
        [], description="Host names that the check `network` has to resolve."
    )
    clock: OptionalAddress = Field(
        "",
        description="Web server with whose Date the check `clock` compares the instance's clock.",
    )
    clock_seconds: PositiveInt = Field(
        5, description="Largest difference that the check `clock` accepts, in seconds."
    )


#: The name of the first boot check, which always runs: the login as the default user.
LOGIN = "login"


class Check(Section):
    """One command that has to succeed on the test instance."""

    name: str = Field(
        min_length=1,
        max_length=64,
        # With {1,64} in place of +, each command would spend 20 ms on compiling it.
        pattern=r"^[\w .,-]+$",
        description="Name of the check in logs, answers and messages.",
    )
    command: str = Field(min_length=1, description="Command line for the default user's shell.")
    status: int = Field(0, ge=0, le=255, description="Expected exit status.")
    output: Pattern = Field(
        "",
        description="Regular expression that standard output has to contain a match of; empty: any "
        "output.",
    )
    timeout: PositiveFloat = Field(60, description="Timeout of the command, in seconds.")
    types: list[CheckedType] = Field(
        [],
        description="AMI types that are checked: hvm-gp2, hvm or gp2, for example; empty: all.",
    )
    architectures: list[Literal["x86_64", "aarch64"]] = Field(
        [], description="Architectures that are checked, by Koji's names; empty: all."
    )

    def applies(self, ami_type: AMIType, architecture: Architecture) -> bool:
        """Return whether the check is for AMIs of this type and architecture."""
        architectures = [Architecture.from_koji(name) for name in self.architectures]
        return (not self.types or bool(ami_type.names & set(self.types))) and (
            not architectures or architecture in architectures
        )
