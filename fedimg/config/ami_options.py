"""Define the options of AMIs that EC2 has beside their types: each is off unless it is set."""

from __future__ import annotations

import base64
import binascii
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from fedimg.config.section import Section

#: EC2's own values of a gp3 volume.
GP3_IOPS, GP3_THROUGHPUT = 3000, 125
#: The most characters of UEFI data, and how its bytes begin.
_UEFI_CHARACTERS, _UEFI_MAGIC = 64000, b"AMZNUEFI"
_MOST_TYPES = 100
#: EC2's values of the protection from deregistration.
PROTECTIONS = {
    "off": "disabled",
    "on": "enabled-without-cooldown",
    "with cool-down": "enabled-with-cooldown",
}
#: The AMIs to which a list of instance types belongs: HVM ones by architecture, and PV ones.
Kind = Literal["x86_64", "arm64", "paravirtual"]


def _type_pattern(text: str) -> str:
    if "**" in text:
        raise ValueError("has two asterisks in a row, which EC2 does not take")
    return text


TypePattern = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_.*-]{1,24}$"), AfterValidator(_type_pattern)
]
TypePatterns = Annotated[list[TypePattern], Field(max_length=_MOST_TYPES)]


class AMIOptions(Section):
    """The options of AMIs: those of HVM, of gp3, of each kind of instances, and of all."""

    uefi_data: Path | Literal[""] = Field(
        "",
        description="File of the UEFI variable store of x86_64 HVM AMIs, as "
        "'aws ec2 get-instance-uefi-data' prints it, in base64, with Secure Boot's keys for "
        'example; needs boot_mode = "uefi". Empty: none.',
    )
    sriov: bool = Field(
        False,
        description="Enhanced networking of HVM AMIs on types before Nitro, such as c3 and m4: "
        "SriovNetSupport = simple.",
    )
    gp3_iops: int = Field(
        GP3_IOPS, ge=3000, le=80000, description="IOPS of the root volume of gp3 AMIs."
    )
    gp3_throughput: int = Field(
        GP3_THROUGHPUT,
        ge=125,
        le=2000,
        description="Throughput of the root volume of gp3 AMIs, in MiB/s: at most a quarter of "
        "`gp3_iops`.",
    )
    supported_instance_types: dict[Kind, TypePatterns] = Field(
        {},
        description="x86_64, arm64 (HVM) or paravirtual → instance types on which alone EC2 "
        "launches such AMIs, with * as wildcard; none: all.",
    )
    unsupported_instance_types: dict[Kind, TypePatterns] = Field(
        {}, description="Likewise, instance types on which EC2 does not launch such AMIs."
    )
    deregistration_protection: Literal["off", "on", "with cool-down"] = Field(
        "off",
        description="Whether EC2 refuses to deregister an AMI once it is public; with a cool-down, "
        "for 24 hours more after that was ended.",
    )

    @model_validator(mode="after")
    def _throughput_fits(self) -> AMIOptions:
        if self.gp3_throughput * 4 > self.gp3_iops:
            raise ValueError(
                f"gp3_throughput = {self.gp3_throughput} needs gp3_iops = "
                f"{self.gp3_throughput * 4} or more: EC2 gives a quarter of the IOPS in MiB/s"
            )
        return self

    @model_validator(mode="after")
    def _types_are_named_once(self) -> AMIOptions:
        for kind in {*self.supported_instance_types, *self.unsupported_instance_types}:
            named = [*self.supported(kind), *self.unsupported(kind)]
            if twice := sorted({each for each in named if named.count(each) > 1}):
                raise ValueError(f"the instance type {twice[0]} of {kind} AMIs is named twice")
        return self

    def supported(self, kind: Kind) -> list[str]:
        """Return the patterns of the instance types for which such AMIs are; none means all."""
        return self.supported_instance_types.get(kind, [])

    def unsupported(self, kind: Kind) -> list[str]:
        """Return the patterns of the instance types for which such AMIs are not."""
        return self.unsupported_instance_types.get(kind, [])

    def launches(self, kind: Kind, instance_type: str) -> bool:
        """Return whether EC2 launches such an AMI on an instance type."""
        supported = self.supported(kind)
        fits = not supported or any(fnmatchcase(instance_type, each) for each in supported)
        return fits and not any(fnmatchcase(instance_type, each) for each in self.unsupported(kind))


def read_uefi_data(path: Path) -> str:
    """Return UEFI data in base64, from its file. Raises ValueError, which says what is wrong."""
    try:
        text = "".join(path.read_text(encoding="ascii").split())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no base64 text") from error
    if len(text) > _UEFI_CHARACTERS:
        raise ValueError(f"{path} has over {_UEFI_CHARACTERS} characters, which EC2 does not take")
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{path} is no base64 text") from error
    if not data.startswith(_UEFI_MAGIC):
        raise ValueError(
            f"{path} is no UEFI variable store of EC2's; write into it what 'aws ec2 "
            "get-instance-uefi-data --query UefiData --output text' prints"
        )
    return text
