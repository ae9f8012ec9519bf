"""Typed settings from fedimg.toml; AWS credentials and endpoints stay with boto3's own chain."""

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
    """The configuration cannot be used; the text names the file, the key and what to write."""


class Section(BaseModel):
    """A table of fedimg.toml; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Koji(Section):
    """Which hub is asked, and which of its images are published."""

    hub: WebAddress = Field(
        "https://koji.fedoraproject.org/kojihub", description="The hub's XML-RPC address."
    )
    topurl: WebAddress = Field(
        "https://kojipkgs.fedoraproject.org", description="Where the hub's files are served."
    )
    instance: str = Field(
        "primary", description="Messages of another Koji instance are none of ours: ids overlap."
    )
    build_owners: list[str] = Field(
        ["releng"], description="Whose builds are published, by the hub's word."
    )
    scratch_owners: list[str] = Field(
        [], description="Whose scratch builds are published: anybody can name one Fedora-Cloud."
    )
    name_patterns: list[Pattern] = Field(
        [r"^Fedora-(Cloud|Atomic|AtomicHost)\b"],
        description="An image's file name has to match one of these.",
    )
    exclude_patterns: list[Pattern] = Field(
        [r"(?i)vagrant", r"(?i)docker", r"(?i)container"],
        description="… and none of these.",
    )
    architectures: list[Literal["x86_64", "aarch64"]] = Field(
        ["x86_64", "aarch64"], description="By Koji's names."
    )
    timeout: PositiveFloat = Field(60, description="Seconds to wait for one answer of the hub.")
    retry_seconds: PositiveFloat = Field(
        60, description="Longest pause before a hub that did not answer is asked again."
    )


class Composes(Section):
    """Which composes are published; none while no location is named."""

    locations: list[WebAddress] = Field(
        [], description="Where composes lie, each in a folder that has its id for a name."
    )
    types: list[Literal["production", "nightly", "development", "ci", "test"]] = Field(
        ["production", "nightly"], description="Of the compose, by productmd's names."
    )
    release_types: list[str] = Field(
        ["ga", "updates"], description="Of the release that it is of, by productmd's names."
    )
    variants: list[str] = Field([], description="Empty: all.")
    subvariants: list[str] = Field([], description="Empty: all.")
    timeout: PositiveFloat = Field(60, description="Seconds to wait for one file of a compose.")


class Intake(Section):
    """What is taken of what a bus announces."""

    max_age_days: PositiveFloat = Field(
        14,
        description="What finished longer ago, by Koji's or the compose's own word, is not "
        "published for an announcement: an old message can be sent again.",
    )


class CatchUp(Section):
    """How Koji, and the composes' locations, are asked for what the bus may have lost."""

    interval: PositiveFloat = Field(600, description="Seconds between two looks.")
    overlap: NonNegativeFloat = Field(
        21600,
        description="How much later than its own time of completion, in seconds, Koji may show "
        "a build: an import keeps the time at which it began.",
    )
    look_back: NonNegativeFloat = Field(
        86400, description="How far back, in seconds, the very first look goes."
    )


class Machine(Section):
    """What one architecture's images are written and tested on."""

    utility_ami: str = Field(
        "",
        pattern=r"^(ami-[0-9a-f]{8,17})?$",
        description="AMI of the utility instance, in the origin: a cloud image with cloud-init, "
        "curl and xz.",
    )
    utility_type: str = Field("", description="A Nitro type: volumes show their serial number.")
    test_type: str = Field("", description="Boots HVM AMIs.")


class X86Machine(Machine):
    """… of x86_64 images, which may boot as PV too."""

    utility_type: str = "m5.large"
    test_type: str = "t3.small"
    test_type_paravirtual: str = Field("m3.medium", description="Boots PV AMIs.")


class ArmMachine(Machine):
    """… of aarch64 images."""

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
        "public", description="Which of an instance's addresses the worker connects to."
    )
    ssh_port: int = Field(22, ge=1, le=65535)
    allowed_source: SourceRange | None = Field(
        None, description="The only addresses let in: the worker's, as EC2 sees them (a CIDR)."
    )


class AMIs(Section):
    """Which AMIs an image becomes, and their attributes."""

    types: list[AMITypeName] = Field(
        [AMIType(v, t) for v in reversed(Virtualization) for t in ("standard", "gp2")],
        min_length=1,
        description="Virtualization-volume type: hvm or paravirtual; standard, gp2 or gp3.",
    )
    boot_mode: Literal["default", "legacy-bios", "uefi", "uefi-preferred"] = Field(
        "default", description="Of x86_64 HVM AMIs; arm64 ones are always uefi."
    )
    imdsv2: bool = Field(True, description="HVM instances answer IMDSv2 alone unless asked.")
    tpm: bool = Field(False, description="NitroTPM 2.0; needs boot mode uefi.")
    ena: bool = Field(True, description="Enhanced networking, which Nitro types insist on.")
    paravirtual_kernels: dict[str, str] = Field(
        {}, description="Region → PV-GRUB kernel (aki-…), in place of the one that EC2 lists."
    )

    @model_validator(mode="after")
    def _tpm_needs_uefi(self) -> AMIs:
        if self.tpm and self.boot_mode != "uefi":
            raise ValueError('tpm = true needs boot_mode = "uefi": EC2 refuses it otherwise')
        return self


class Limits(Section):
    """The longest that each wait may take, in seconds, and how much is done at once."""

    instance_running: PositiveFloat = 600
    instance_gone: PositiveFloat = 600
    ssh_ready: PositiveFloat = Field(600, description="From running to the first login.")
    write: PositiveFloat = Field(7200, description="Download to volume, all of it.")
    write_idle: PositiveFloat = Field(180, description="Without a byte from the instance.")
    snapshot: PositiveFloat = 7200
    copy_: PositiveFloat = Field(14400, alias="copy", description="One region's snapshot copy.")
    image: PositiveFloat = 1800
    settle: PositiveFloat = Field(120, description="Until EC2 knows a fresh resource everywhere.")
    outage: PositiveFloat = Field(
        3600, description="EC2, or a region of it, is away, or takes no credentials."
    )
    retries: NonNegativeInt = Field(
        6, description="Further runs that a job gets by itself when EC2 failed it, or a region."
    )
    retry_after: PositiveFloat = Field(
        900, description="Before the first of them; each later pause is twice as long."
    )
    attempts: PositiveInt = Field(3, description="Fresh instances tried for a write or a check.")
    image_gib: PositiveInt = Field(64, description="Largest image taken, uncompressed.")
    jobs: PositiveInt = Field(4, description="Jobs that one worker runs at once.")
    copies: PositiveInt = Field(
        20, description="Snapshot copies into one region at once, of all workers together."
    )
    utilities: PositiveInt = Field(
        20, description="Utility instances at once, of all workers together."
    )
    calls: PositiveFloat = Field(
        20, description="EC2 calls a second to one region, of all workers together."
    )
    regions: PositiveInt = Field(40, description="Regions that one job works on at once.")
    wait_minimum: PositiveFloat = Field(
        1.0, description="Shortest pause between two looks at what EC2 is doing."
    )
    wait_maximum: PositiveFloat = Field(15.0, description="Longest such pause.")

    @model_validator(mode="after")
    def _pauses_in_order(self) -> Limits:
        if self.wait_minimum > self.wait_maximum:
            raise ValueError("wait_minimum is longer than wait_maximum")
        return self


#: The checks that fedimg brings, in the order in which they are made.
ShippedCheck = Literal[
    "units", "cloud-init", "root-size", "pristine", "network", "clock", "selinux", "reboot"
]


class Checking(Section):
    """Which AMIs are booted, and what they have to pass beside the site's own checks."""

    amis: Literal["virtualizations", "types"] = Field(
        "virtualizations",
        description="Boot one AMI of each virtualization type, or one of each AMI type.",
    )
    regions: list[str] = Field(
        [], description="Further regions where the copied AMIs are booted before they are public."
    )
    subnets: dict[str, Annotated[str, Field(pattern=r"^subnet-[0-9a-f]{8,17}$")]] = Field(
        {}, description="Region → subnet of test instances, where not one of the default VPC."
    )
    shipped: list[ShippedCheck] = Field(
        list(get_args(ShippedCheck)), description="Which of fedimg's own checks are made."
    )
    reach: list[GivenAddress] = Field([], description="What `network` has to get an answer from.")
    resolve: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,253}$")]] = Field(
        [], description="Names that `network` has to resolve."
    )
    clock: OptionalAddress = Field(
        "", description="The web server whose Date `clock` compares the instance's clock with."
    )
    clock_seconds: PositiveInt = Field(5, description="How far the two may be apart.")


class EC2(Section):
    """The account's regions and how an image gets into them."""

    origin: str = Field(
        "us-east-1",
        pattern=r"^[a-z]{2}(-[a-z]+)+-\d$",
        description="Where images are written; the other regions get copies.",
    )
    regions: list[str] = Field([], description="Empty: all that the account has enabled.")
    exclude_regions: list[str] = Field([], description="… less these.")
    write_via: Literal["utility", "direct"] = Field(
        "utility",
        description="A utility instance writes images to a volume; or the worker itself writes "
        "their snapshots, by the EBS direct API: no instance, but all their bytes pass through it.",
    )
    redirect_hosts: list[str] = Field(
        [],
        description="Hosts that an image's own one may redirect its readers to, beside itself.",
    )
    plain_http_hosts: list[str] = Field(
        [],
        description="Hosts that may serve over plain http what https is needed for: images "
        "without a checksum, as scratch builds are, and what https redirected to.",
    )
    zero_blocks: Literal["write", "skip"] = Field(
        "write",
        description="What direct writing does with 512 KiB of zeros. Skipped ones cost nothing, "
        "and read as garbage on a volume that somebody encrypts at launch.",
    )
    volume_throughput: int = Field(
        500,
        ge=125,
        le=2000,
        description="Of the gp3 volume that an image is written to, in MiB/s; more than 125 is "
        "paid for, while it is written. The utility instance may be slower.",
    )
    login_user: str = Field("ec2-user", description="The utility AMI's default user.")
    test_user: str = Field("fedora", description="The default user of the images themselves.")
    x86_64: X86Machine = X86Machine()
    aarch64: ArmMachine = ArmMachine()
    network: Network = Network()
    amis: AMIs = AMIs()
    test: Checking = Checking()
    limits: Limits = Limits()
    keep_failed_amis: bool = Field(False, description="Leave a failed job's AMIs, for a look.")
    keep_failed_instances: bool = Field(False, description="… and its instances.")

    def machine(self, architecture: Architecture) -> Machine:
        """What images of this architecture are written and tested on."""
        return self.x86_64 if architecture is Architecture.X86_64 else self.aarch64


#: The first check of all, which is always made: the default user gets in.
LOGIN = "login"


class Check(Section):
    """One command that has to succeed on the test instance."""

    name: str = Field(pattern=r"^[\w .,-]{1,64}$")
    command: str = Field(min_length=1, description="For the image's own shell.")
    status: int = Field(0, ge=0, le=255, description="The expected exit status.")
    output: Pattern = Field("", description="What standard output has to match somewhere.")
    timeout: PositiveFloat = Field(60, description="Seconds.")
    types: list[CheckedType] = Field(
        [],
        description="AMI types that it is for: hvm-gp2, or either half of that; empty: all.",
    )
    architectures: list[Literal["x86_64", "aarch64"]] = Field(
        [], description="By Koji's names; empty: all."
    )

    def applies(self, kind: AMIType, architecture: Architecture) -> bool:
        """Whether it is for AMIs of this type and architecture."""
        names = {str(kind), str(kind.virtualization), kind.volume_type}
        built_for = [Architecture.from_koji(name) for name in self.architectures]
        return (not self.types or bool(names & set(self.types))) and (
            not built_for or architecture in built_for
        )


class Announcing(Section):
    """How announcements leave; the buses' addresses are in their own configuration."""

    confirm_seconds: PositiveFloat = Field(
        10, description="A message that a bus has not been seen to take by then is sent again."
    )


#: The buses by their names in the configuration.
BusName = Literal["fedmsg", "fedora-messaging"]
FEDMSG: Final = "fedmsg"
FEDORA_MESSAGING: Final = "fedora-messaging"


def _buses(value: Any) -> Any:
    if isinstance(value, dict):
        raise ValueError(
            "is no table any more: bus says which bus announcements go to, as in "
            'bus = "fedmsg", above the first table; confirm_seconds is now in [announcing]'
        )
    return [value] if isinstance(value, str) else value


Buses = Annotated[list[BusName], BeforeValidator(_buses), Field(min_length=1)]


class Worker(Section):
    """How the worker process stops, and how long it remembers."""

    stop_seconds: PositiveFloat = Field(
        20, description="How long steps under way may take to end when the worker is stopped."
    )
    lease_seconds: float = Field(
        15,
        ge=2,
        description="With PostgreSQL: a worker that was not heard of for so long has lost its "
        "jobs to the others, and ends.",
    )
    history_days: PositiveFloat = Field(
        90,
        description="How long the steps of ended jobs, and the texts of sent messages, are kept; "
        "jobs and AMIs stay.",
    )


class Settings(Section):
    """The whole of fedimg.toml."""

    site: str = Field(
        "default",
        pattern=r"^[A-Za-z0-9._-]{1,32}$",
        description="This deployment's name: tags everything it makes; it touches nothing else.",
    )
    state_directory: Path = Field(
        Path("/var/lib/fedimg"), description="Queue and outbox, unless `database` has them."
    )
    database: DatabaseAddress = Field(
        "",
        description="postgresql://user@host/name, which several workers share; empty: a file in "
        "state_directory, and one worker. A password is better in ~/.pgpass or $PGPASSWORD.",
    )
    bus: Buses = Field(
        [FEDMSG], description="What announcements go to: one bus, or a list of both."
    )
    koji: Koji = Koji()
    composes: Composes = Composes()
    intake: Intake = Intake()
    catch_up: CatchUp = CatchUp()
    ec2: EC2 = EC2()
    checks: list[Check] = Field(
        [], description="What a test instance has to pass, beside what `ec2.test` has."
    )
    announcing: Announcing = Announcing()

    @model_validator(mode="after")
    def _checks_can_be_told_apart(self) -> Settings:
        names = [LOGIN, *self.ec2.test.shipped, *(check.name for check in self.checks)]
        if len(names) == 1:
            raise ValueError("no check is left: name one in ec2.test.shipped, or a [[checks]]")
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two checks have the name {', '.join(sorted(twice))}")
        return self

    worker: Worker = Worker()


def load(path: Path | None = None) -> Settings:
    """Settings from `path`, or from $FEDIMG_CONFIG, or from /etc/fedimg/fedimg.toml.

    Relative directories in the file count from the file. Raises ConfigError when the file is
    missing or anything in it is wrong, naming the key and, for a misspelt one, the nearest.
    """
    path = path or Path(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror}; "
            f"name another with --config or ${PATH_VARIABLE}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(f"{path}: {_complaint(problem)}" for problem in error.errors())
        ) from error
    directory = (path.parent / settings.state_directory).absolute()
    return settings.model_copy(update={"state_directory": directory})


def _complaint(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{where or 'the file'}: {problem['msg'].removeprefix('Value error, ')}"
    *sections, key = problem["loc"]
    known = _keys(sections)
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
    return f"unknown key {where!r}; {hint}"


def _keys(sections: list[str | int]) -> list[str]:
    model: type[BaseModel] = Settings
    for name in sections:
        if isinstance(name, int):
            continue
        field = next(f for n, f in model.model_fields.items() if (f.alias or n) == name)
        candidates = (field.annotation, *get_args(field.annotation))
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return [field.alias or name for name, field in model.model_fields.items()]
