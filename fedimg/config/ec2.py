"""Define the settings of EC2: regions, AMIs and how an image gets there."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from fedimg.config.ami_options import AMIOptions, Kind
from fedimg.config.checks import Checking
from fedimg.config.encryption import Encryption
from fedimg.config.instance_store import InstanceStore
from fedimg.config.instances import ArmMachine, Machine, Network, X86Machine
from fedimg.config.limits import Limits
from fedimg.config.parameters import Parameters
from fedimg.config.prices import Prices
from fedimg.config.section import Section
from fedimg.config.share import Share, partition_of
from fedimg.config.value_types import AMITypeName
from fedimg.images import AMIType, Architecture, Virtualization
from fedimg.values import audience


class AMIs(AMIOptions):
    """The AMIs that are made of an image, and their attributes."""

    types: list[AMITypeName] = Field(
        [AMIType(v, t) for v in reversed(Virtualization) for t in ("standard", "gp2")],
        min_length=1,
        description="AMI types as VIRTUALIZATION-VOLUME: hvm or paravirtual; standard, gp2, gp3, "
        "or instance for an instance-store AMI; -encrypted behind a volume type for an AMI whose "
        "snapshot is encrypted with a key of ec2.encryption.",
    )
    boot_mode: Literal["default", "legacy-bios", "uefi", "uefi-preferred"] = Field(
        "default", description="Boot mode of x86_64 HVM AMIs; arm64 AMIs always have uefi."
    )
    imdsv2: bool = Field(
        True, description="Instances of HVM AMIs accept IMDSv2 only, unless launched otherwise."
    )
    tpm: bool = Field(False, description='NitroTPM 2.0; needs boot_mode = "uefi".')
    ena: bool = Field(True, description="Enhanced networking (ENA), which Nitro types need.")
    paravirtual_kernels: dict[str, str] = Field(
        {}, description="Region → PV-GRUB kernel (aki-…), in place of the kernel that EC2 lists."
    )

    @property
    def public_types(self) -> int:
        """Return how many AMIs of an image may become public in a region, at most."""
        return sum(not each.encrypted for each in self.types)

    @model_validator(mode="after")
    def _tpm_needs_uefi(self) -> AMIs:
        if self.tpm and self.boot_mode != "uefi":
            raise ValueError('tpm = true needs boot_mode = "uefi": EC2 rejects any other boot mode')
        if self.uefi_data and self.boot_mode != "uefi":
            raise ValueError('uefi_data needs boot_mode = "uefi", for which it is')
        return self


#: The regions of AWS's isolated partitions (aws-iso, aws-iso-b, aws-iso-e, aws-iso-f).
_ISOLATED = re.compile(r"[a-z]{2}-iso[a-z]*-")


def _refuse_isolated(region: str) -> str:
    if _ISOLATED.match(region):
        raise ValueError(
            f"{region} is in a partition that is cut off from the internet: neither Koji nor the "
            "bus can be reached from there, and fedimg was never run in one"
        )
    return region


class EC2(Section):
    """The account's regions and how an image gets into them."""

    origin: Annotated[str, AfterValidator(_refuse_isolated)] = Field(
        "us-east-1",
        pattern=r"^[a-z]{2,4}(-[a-z]+)+-\d$",
        description="The origin region, where images are written; the other regions get copies. It "
        "decides the partition: AWS's own, China's, GovCloud or the European Sovereign Cloud.",
    )
    regions: list[str] = Field(
        [], description="Regions to publish in; empty: all regions that the account has enabled."
    )
    exclude_regions: list[str] = Field([], description="Regions that are left out of `regions`.")
    public: bool = Field(
        True,
        description="Whether AMIs and their snapshots become public. If not, they are shared with "
        "the audience of `share` alone, once they are tested.",
    )
    write_via: Literal["utility", "direct"] = Field(
        "utility",
        description='"utility": a utility instance writes the image to a volume. "direct": the '
        "worker writes the snapshot by the EBS direct API; no instance is needed, but all bytes of "
        "the image pass through the worker.",
    )
    redirect_hosts: list[str] = Field(
        [],
        description="Hosts to which an image's file server may redirect, beside itself.",
    )
    plain_http_hosts: list[str] = Field(
        [],
        description="Hosts that may serve files over plain http where https is required: images "
        "without a checksum, as of scratch builds, and targets of redirects from https.",
    )
    zero_blocks: Literal["write", "skip"] = Field(
        "write",
        description="Whether direct writing writes or skips blocks of 512 KiB that hold zeros "
        "only. Skipped blocks cost nothing, but read as garbage on a volume that is encrypted at "
        "launch.",
    )
    volume_throughput: int = Field(
        500,
        ge=125,
        le=2000,
        description="Throughput of the gp3 volume to which an image is written, in MiB/s; EC2 "
        "charges for more than 125 MiB/s while the volume exists. The utility instance may be "
        "slower.",
    )
    login_user: str = Field("ec2-user", description="Default user of the utility AMI.")
    test_user: str = Field("fedora", description="Default user of the published images.")
    x86_64: X86Machine = X86Machine()
    aarch64: ArmMachine = ArmMachine()
    network: Network = Network()
    share: Share = Share()
    amis: AMIs = AMIs()
    ssm: Parameters = Parameters()
    test: Checking = Checking()
    limits: Limits = Limits()
    prices: Prices = Prices()
    instance_store: InstanceStore = InstanceStore()
    encryption: Encryption = Encryption()
    keep_failed_amis: bool = Field(
        False, description="Keep the AMIs of a failed job, for investigation."
    )
    keep_failed_instances: bool = Field(
        False, description="Keep the instances of a failed job, for investigation."
    )

    @model_validator(mode="after")
    def _audience_is_in_the_partition(self) -> EC2:
        partition = partition_of(self.origin)
        for part, members in self.share:
            for each in members:
                if why := audience.fault(part, each, partition):
                    raise ValueError(f"ec2.share.{part}: {each} {why}")
        return self

    @model_validator(mode="after")
    def _test_types_are_supported(self) -> EC2:
        tested: dict[Kind, str] = {
            "x86_64": self.x86_64.test_type,
            "arm64": self.aarch64.test_type,
            "paravirtual": self.x86_64.test_type_paravirtual,
        }
        for kind, name in tested.items():
            if not self.amis.launches(kind, name):
                raise ValueError(
                    f"ec2.amis has EC2 refuse {kind} AMIs on {name}, on which they are tested: "
                    "correct its lists of instance types, or the instance type of the tests"
                )
        return self

    @model_validator(mode="after")
    def _instance_store_is_possible(self) -> EC2:
        types, amis = self.amis.types, self.amis
        bundled = [str(each) for each in types if each.instance_store]
        if not bundled:
            return self
        if len(bundled) == len(types):
            raise ValueError(
                "amis.types has instance-store types alone: name a type with an EBS volume, too, "
                "such as hvm-gp3, whose boot check decides about the image"
            )
        if amis.boot_mode == "uefi":
            raise ValueError(
                f'AMIs of the type {bundled[0]} need another boot_mode than "uefi", which none of '
                "the instance types has that boot them"
            )
        if missing := self.instance_store.missing:
            raise ValueError(
                f"AMIs of the type {bundled[0]} need ec2.instance_store.{missing[0]}: name it"
            )
        return self

    @model_validator(mode="after")
    def _encryption_is_possible(self) -> EC2:
        types = self.amis.types
        encrypted = [str(each) for each in types if each.encrypted]
        if not encrypted:
            return self
        if self.zero_blocks == "skip":
            raise ValueError(
                f'AMIs of the type {encrypted[0]} need zero_blocks = "write": blocks that are '
                "skipped read as garbage on an encrypted volume"
            )
        if all(each.encrypted or each.instance_store for each in types):
            raise ValueError(
                "amis.types has encrypted types alone: name a type without encryption, too, such "
                "as hvm-gp3, whose snapshot they are made from, and whose boot check decides "
                "about the image"
            )
        named = {self.origin, *self.regions} - (set(self.exclude_regions) - {self.origin})
        if missing := sorted(each for each in named if not self.encryption.key_in(each)):
            raise ValueError(
                f"AMIs of the type {encrypted[0]} need a KMS key in {', '.join(missing)}: name it "
                "in ec2.encryption.keys, or one for all regions in ec2.encryption.key"
            )
        return self

    def machine(self, architecture: Architecture) -> Machine:
        """Return the settings of the instances that write and test images of an architecture."""
        return self.x86_64 if architecture is Architecture.X86_64 else self.aarch64
