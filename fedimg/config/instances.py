"""Define the settings of the instances on which images are written and tested."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedimg.config.section import Section
from fedimg.config.value_types import SourceRange


class Machine(Section):
    """The instances on which images of one architecture are written and tested."""

    utility_ami: str = Field(
        "",
        pattern=r"^(ami-[0-9a-f]{8,17})?$",
        description="AMI of the utility instance, in the origin region: a cloud image with "
        "cloud-init, curl and xz; zstd and gzip for images in these formats.",
    )
    utility_type: str = Field(
        "",
        description="Instance type of the utility instance: a Nitro type, on which volumes show "
        "their serial numbers.",
    )
    test_type: str = Field("", description="Instance type that boots HVM AMIs.")


class X86Machine(Machine):
    """The instances for x86_64 images, which may boot as PV, too."""

    utility_type: str = "m5.large"
    test_type: str = "t3.small"
    test_type_paravirtual: str = Field("m3.medium", description="Instance type that boots PV AMIs.")


class ArmMachine(Machine):
    """The instances for aarch64 images."""

    utility_type: str = "m6g.large"
    test_type: str = "t4g.small"


class Network(Section):
    """The way in which the worker reaches its instances."""

    subnet: str = Field(
        "",
        pattern=r"^(subnet-[0-9a-f]{8,17})?$",
        description="Subnet of the instances; empty: a default subnet of `vpc`.",
    )
    vpc: str = Field(
        "",
        pattern=r"^(vpc-[0-9a-f]{8,17})?$",
        description="VPC of the job's security group; empty: the region's default VPC.",
    )
    address: Literal["public", "private"] = Field(
        "public", description="The address of an instance that the worker connects to."
    )
    ssh_port: int = Field(22, ge=1, le=65535, description="Port of the instances' SSH server.")
    allowed_source: SourceRange | None = Field(
        None, description="CIDR of the worker's addresses as EC2 sees them; no others are let in."
    )
