"""Read fedimg.toml into typed settings; boto3 finds AWS credentials and endpoints by itself."""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from fedimg.images import AMIType, Architecture, Virtualization
from fedimg.setting_types import (
    AMITypeName,
    CheckedType,
    DatabaseAddress,
    GivenAddress,
    OptionalAddress,
    Pattern,
    SourceRange,
    WebAddress,
)

DEFAULT_PATH = Path("/etc/fedimg/fedimg.toml")
PATH_VARIABLE = "FEDIMG_CONFIG"


class ConfigError(Exception):
    """The configuration is unusable; the text names the file, the key and what to write."""


class Section(BaseModel):
    """A table of fedimg.toml; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Koji(Section):
    """The Koji hub, and which of its images are published."""

    hub: WebAddress = Field(
        "https://koji.fedoraproject.org/kojihub", description="The Koji hub's XML-RPC URL."
    )
    topurl: WebAddress = Field(
        "https://kojipkgs.fedoraproject.org", description="The base URL of the Koji hub's files."
    )
    instance: str = Field(
        "primary",
        description="The Koji instance whose messages count; messages of other instances are "
        "ignored, because their ids overlap.",
    )
    build_owners: list[str] = Field(
        ["releng"], description="Owners, as the hub names them, whose builds are published."
    )
    scratch_owners: list[str] = Field(
        [],
        description="Owners whose scratch builds are published; nobody by default, because anybody "
        "can name a scratch build Fedora-Cloud.",
    )
    name_patterns: list[Pattern] = Field(
        [r"^Fedora-(Cloud|Atomic|AtomicHost)\b"],
        description="Regular expressions; an image's file name has to match one of them.",
    )
    exclude_patterns: list[Pattern] = Field(
        [r"(?i)vagrant", r"(?i)docker", r"(?i)container"],
        description="Regular expressions; an image's file name must match none of them.",
    )
    architectures: list[Literal["x86_64", "aarch64"]] = Field(
        ["x86_64", "aarch64"], description="Architectures that are published, by Koji's names."
    )
    timeout: PositiveFloat = Field(
        60, description="Longest wait for one answer of the hub, in seconds."
    )
    retry_seconds: PositiveFloat = Field(
        60, description="Longest pause between two tries to reach the hub, in seconds."
    )


class Composes(Section):
    """The composes that are published; none while `locations` is empty."""

    locations: list[WebAddress] = Field(
        [],
        description="URLs of folders that hold composes, each compose in a folder named by its id.",
    )
    types: list[Literal["production", "nightly", "development", "ci", "test"]] = Field(
        ["production", "nightly"],
        description="Compose types that are published, by productmd's names.",
    )
    release_types: list[str] = Field(
        ["ga", "updates"], description="Release types that are published, by productmd's names."
    )
    variants: list[str] = Field([], description="Variants that are published; empty: all.")
    subvariants: list[str] = Field([], description="Subvariants that are published; empty: all.")
    timeout: PositiveFloat = Field(
        60, description="Longest wait for one file of a compose, in seconds."
    )


class Intake(Section):
    """Which announcements of a bus are accepted."""

    max_age_days: PositiveFloat = Field(
        14,
        description="Announced builds and composes that finished longer ago are not published, "
        "because anybody can send an old message again; Koji or the compose tells the time.",
    )


class CatchUp(Section):
    """The search in Koji and in the composes' locations for announcements that the bus lost."""

    interval: PositiveFloat = Field(600, description="Seconds between two searches.")
    overlap: NonNegativeFloat = Field(
        21600,
        description="How long after its completion time, in seconds, a build may first appear in "
        "Koji: an imported build keeps the time at which its import began.",
    )
    look_back: NonNegativeFloat = Field(
        86400, description="How far back the very first search goes, in seconds."
    )


class Machine(Section):
    """The instances on which images of one architecture are written and tested."""

    utility_ami: str = Field(
        "",
        pattern=r"^(ami-[0-9a-f]{8,17})?$",
        description="AMI of the utility instance, in the origin region: a cloud image with "
        "cloud-init, curl and xz.",
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
    """How the worker reaches its instances."""

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


class AMIs(Section):
    """The AMIs that are made of an image, and their attributes."""

    types: list[AMITypeName] = Field(
        [AMIType(v, t) for v in reversed(Virtualization) for t in ("standard", "gp2")],
        min_length=1,
        description="AMI types as VIRTUALIZATION-VOLUME: hvm or paravirtual; standard, gp2 or gp3.",
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

    @model_validator(mode="after")
    def _tpm_needs_uefi(self) -> AMIs:
        if self.tpm and self.boot_mode != "uefi":
            raise ValueError('tpm = true needs boot_mode = "uefi": EC2 rejects any other boot mode')
        return self


class Limits(Section):
    """Timeouts, in seconds, and limits of concurrency and of retries."""

    instance_running: PositiveFloat = Field(
        600, description="Timeout for an instance to start running, in seconds."
    )
    instance_gone: PositiveFloat = Field(
        600, description="Timeout for an instance to terminate, in seconds."
    )
    ssh_ready: PositiveFloat = Field(
        600, description="Timeout from a running instance to the first SSH login, in seconds."
    )
    write: PositiveFloat = Field(
        7200, description="Timeout for downloading an image and writing it, in seconds."
    )
    write_idle: PositiveFloat = Field(
        180, description="Timeout for the next byte from a writing instance, in seconds."
    )
    snapshot: PositiveFloat = Field(
        7200, description="Timeout for a snapshot to complete, in seconds."
    )
    copy_: PositiveFloat = Field(
        14400,
        alias="copy",
        description="Timeout for the snapshot copy of one region to complete, in seconds.",
    )
    image: PositiveFloat = Field(
        1800, description="Timeout for an AMI to become available, in seconds."
    )
    settle: PositiveFloat = Field(
        120, description="Timeout for a new resource to become visible in all of EC2, in seconds."
    )
    outage: PositiveFloat = Field(
        3600,
        description="Timeout for EC2 or a region of it to answer again, or to accept the "
        "credentials, in seconds.",
    )
    retries: NonNegativeInt = Field(
        6, description="Automatic retries of a job that failed because of EC2, or in a region."
    )
    retry_after: PositiveFloat = Field(
        900, description="Seconds before the first retry; each later pause is twice as long."
    )
    attempts: PositiveInt = Field(
        3, description="New instances that are tried for one write or one boot check."
    )
    image_gib: PositiveInt = Field(
        64, description="Size of the largest accepted image, uncompressed, in GiB."
    )
    jobs: PositiveInt = Field(4, description="Concurrent jobs of one worker.")
    copies: PositiveInt = Field(
        20, description="Concurrent snapshot copies into one region, of all workers together."
    )
    utilities: PositiveInt = Field(
        20, description="Concurrent utility instances, of all workers together."
    )
    calls: PositiveFloat = Field(
        20, description="EC2 calls per second to one region, of all workers together."
    )
    regions: PositiveInt = Field(40, description="Regions that one job works on concurrently.")
    wait_minimum: PositiveFloat = Field(
        1.0, description="Shortest interval between two polls of EC2, in seconds."
    )
    wait_maximum: PositiveFloat = Field(
        15.0, description="Longest interval between two polls of EC2, in seconds."
    )

    @model_validator(mode="after")
    def _pauses_in_order(self) -> Limits:
        if self.wait_minimum > self.wait_maximum:
            raise ValueError("wait_minimum is longer than wait_maximum")
        return self


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


class Prices(Section):
    """AWS's prices for this account, by which `fedimg plan` estimates what an image costs."""

    currency: str = Field("USD", description="What the prices are in.")
    snapshot_gib_month: NonNegativeFloat = Field(0, description="A GiB of snapshot, for a month.")
    transfer_gib: NonNegativeFloat = Field(
        0, description="The transfer of a GiB from the origin to another region."
    )
    instance_hour: NonNegativeFloat = Field(
        0, description="An hour of a utility or test instance, with its volume and address."
    )
    thousand_blocks: NonNegativeFloat = Field(
        0, description="A thousand calls of PutSnapshotBlock, where images are written directly."
    )

    @property
    def known(self) -> bool:
        """Whether the site has set a price."""
        return any(value for name, value in self if name != "currency")


class EC2(Section):
    """The account's regions and how an image gets into them."""

    origin: str = Field(
        "us-east-1",
        pattern=r"^[a-z]{2}(-[a-z]+)+-\d$",
        description="The origin region, where images are written; the other regions get copies.",
    )
    regions: list[str] = Field(
        [], description="Regions to publish in; empty: all regions that the account has enabled."
    )
    exclude_regions: list[str] = Field([], description="Regions that are left out of `regions`.")
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
    amis: AMIs = AMIs()
    test: Checking = Checking()
    limits: Limits = Limits()
    prices: Prices = Prices()
    keep_failed_amis: bool = Field(
        False, description="Keep the AMIs of a failed job, for investigation."
    )
    keep_failed_instances: bool = Field(
        False, description="Keep the instances of a failed job, for investigation."
    )

    def machine(self, architecture: Architecture) -> Machine:
        """Return the settings of the instances that write and test images of an architecture."""
        return self.x86_64 if architecture is Architecture.X86_64 else self.aarch64


#: The name of the first boot check, which always runs: the login as the default user.
LOGIN = "login"


class Check(Section):
    """One command that has to succeed on the test instance."""

    name: str = Field(
        pattern=r"^[\w .,-]{1,64}$", description="Name of the check in logs, answers and messages."
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
        names = {str(ami_type), str(ami_type.virtualization), ami_type.volume_type}
        architectures = [Architecture.from_koji(name) for name in self.architectures]
        return (not self.types or bool(names & set(self.types))) and (
            not architectures or architecture in architectures
        )


class Announcing(Section):
    """The sending of announcements; the buses' addresses are in the buses' own configuration."""

    confirm_seconds: PositiveFloat = Field(
        10,
        description="Seconds after which a message that a bus has not confirmed is sent again.",
    )


#: The names of the buses in the configuration.
BusName = Literal["fedmsg", "fedora-messaging"]
FEDMSG: Final = "fedmsg"
FEDORA_MESSAGING: Final = "fedora-messaging"


def _buses(value: Any) -> Any:
    if isinstance(value, dict):
        raise ValueError(
            "can no longer be a table: name the bus for announcements above the first table, as in "
            'bus = "fedmsg", and move confirm_seconds to [announcing]'
        )
    return [value] if isinstance(value, str) else value


Buses = Annotated[list[BusName], BeforeValidator(_buses), Field(min_length=1)]


class Verify(Section):
    """The worker's comparison of the record with EC2."""

    interval: NonNegativeFloat = Field(
        86400,
        description="Seconds between two comparisons of the recorded AMIs with EC2; 0: the worker "
        "makes none.",
    )


class Worker(Section):
    """The worker process: how it stops, and how long it keeps the history."""

    stop_seconds: PositiveFloat = Field(
        20, description="Seconds that running steps have to end when the worker is stopped."
    )
    lease_seconds: float = Field(
        15,
        ge=2,
        description="Seconds without a sign of life, with PostgreSQL, after which a worker loses "
        "its jobs to the other workers and ends.",
    )
    history_days: PositiveFloat = Field(
        90,
        description="Days for which the steps of ended jobs and the texts of sent messages are "
        "kept; the records of jobs and AMIs are kept for ever.",
    )


class Settings(Section):
    """The whole of fedimg.toml."""

    site: str = Field(
        "default",
        pattern=r"^[A-Za-z0-9._-]{1,32}$",
        description="Name of this deployment. It tags every resource that it makes in EC2, and "
        "changes no resource with another site's tag.",
    )
    state_directory: Path = Field(
        Path("/var/lib/fedimg"),
        description="Directory of the database file, unless `database` names a PostgreSQL "
        "database.",
    )
    database: DatabaseAddress = Field(
        "",
        description="postgresql://user@host/name, which several workers can share; empty: a file "
        "in state_directory, for one worker. Put a password into ~/.pgpass or $PGPASSWORD.",
    )
    bus: Buses = Field(
        [FEDMSG], description="Bus to which announcements are sent, or a list of both buses."
    )
    koji: Koji = Koji()
    composes: Composes = Composes()
    intake: Intake = Intake()
    catch_up: CatchUp = CatchUp()
    verify: Verify = Verify()
    ec2: EC2 = EC2()
    checks: list[Check] = Field(
        [], description="The site's own boot checks, in addition to those of `ec2.test`."
    )
    announcing: Announcing = Announcing()

    @model_validator(mode="after")
    def _check_names_are_unique(self) -> Settings:
        names = [LOGIN, *self.ec2.test.shipped, *(check.name for check in self.checks)]
        if len(names) == 1:
            raise ValueError(
                "no boot check is left: name one in ec2.test.shipped, or add a [[checks]] table"
            )
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"two boot checks have the name {', '.join(sorted(duplicates))}: rename one of them"
            )
        return self

    worker: Worker = Worker()


def load(path: Path | None = None) -> Settings:
    """Return the settings from `path`, or from $FEDIMG_CONFIG, or from /etc/fedimg/fedimg.toml.

    Relative directories in the file are relative to the file. Raises ConfigError when the file is
    missing or invalid; the text names the key and, for a misspelt key, the nearest known one.
    """
    path = path or Path(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration file {path}: {error.strerror}; "
            f"name another file with --config or ${PATH_VARIABLE}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(f"{path}: {_error_text(problem)}" for problem in error.errors())
        ) from error
    directory = (path.parent / settings.state_directory).absolute()
    return settings.model_copy(update={"state_directory": directory})


def _error_text(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{where or 'the file'}: {problem['msg'].removeprefix('Value error, ')}"
    *sections, key = problem["loc"]
    known = _keys(sections)
    similar = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    hint = f"did you mean {similar[0]}?" if similar else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {where}; {hint}"


def _keys(sections: list[str | int]) -> list[str]:
    model: type[BaseModel] = Settings
    for name in sections:
        if isinstance(name, int):
            continue
        field = next(f for n, f in model.model_fields.items() if (f.alias or n) == name)
        candidates = (field.annotation, *get_args(field.annotation))
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return [field.alias or name for name, field in model.model_fields.items()]
