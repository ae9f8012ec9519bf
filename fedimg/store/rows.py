"""Values read from the database: jobs, their regions, boot checks and AMIs, and messages."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from fedimg.images import AMIType, RawImage, Virtualization
from fedimg.progress import HELD, CheckResult
from fedimg.records import as_record, from_record
from fedimg.values.audience import Audience

#: States in which a job still has work queued or running.
LIVE = ("queued", "running")
#: States in which nothing more happens to a job until a person retries it.
ENDED = ("complete", "incomplete", "failed", "cancelled")
#: The last step of every run.
CLEANING = "clean-up"

#: The states of an AMI. In a state that ends in "ing", EC2 has not confirmed the change yet.
PRIVATE = "private"
PUBLIC = "public"
#: Out of the reach of others, because a person withdrew it.
WITHDRAWING, WITHDRAWN = "withdrawing", "withdrawn"
RESTORING = "restoring"
#: Private for good, tested, and shared with its audience; this may be nobody.
SHARED = "shared"
#: … and its audience is being changed.
SHARING = "sharing"
#: The states in which others than everybody may use an AMI.
AUDIENCES = (SHARED, SHARING)
#: Private by a change on EC2 that a person made and accepted.
HIDDEN = "hidden"
#: Disabled by a retention rule.
DISABLING, DISABLED = "disabling", "disabled"
#: Gone from EC2, by a retention rule or by a change that a person accepted.
DELETING, DELETED = "deleting", "deleted"
#: Found on EC2 when the database was rebuilt; it is not known whether it was tested.
UNKNOWN = "unknown"
STATES = (
    PRIVATE,
    PUBLIC,
    SHARED,
    SHARING,
    WITHDRAWING,
    WITHDRAWN,
    RESTORING,
    HIDDEN,
    DISABLING,
    DISABLED,
    DELETING,
    DELETED,
    UNKNOWN,
)


#: The fields of an image that have columns of their own in a job's row.
_OWN_COLUMNS = ("release", "subvariant")


def image_columns(image: RawImage) -> dict[str, Any]:
    """Return the columns of a job's row that describe its image.

    The version before this one reads `raw_image` and accepts no unknown key in it.
    """
    record = as_record(image)
    own = {name: record.pop(name) for name in _OWN_COLUMNS}
    return {"raw_image": record, "checksum": image.checksum, **own}


def image_of(row: Any) -> RawImage:
    """Return the image that a job's row describes."""
    own = {name: getattr(row, name) for name in _OWN_COLUMNS}
    return from_record(RawImage, {**row.raw_image, **own})


@dataclass(frozen=True)
class RegionRow:
    """A job's progress in one region; `error` is the reason when the region failed.

    `updated` is in seconds since the epoch.
    """

    region: str
    step: str
    detail: str
    error: str | None
    updated: float


@dataclass(frozen=True)
class BootTestRow:
    """The latest boot check of a job's AMIs of one type in one region.

    `volume_type` is gp2-encrypted, for example, where the AMI's snapshot is encrypted. `status` is
    started, completed or failed; `output` is the end of the console output of a failed check's
    instance. `updated` is in seconds since the epoch.
    """

    region: str
    virt_type: str
    volume_type: str
    ami: str
    status: str
    checks: list[CheckResult]
    output: str
    updated: float


@dataclass(frozen=True)
class JobRow:
    """One job as its operator sees it; times are in seconds since the epoch.

    `next` is the time of the job's next automatic run, or None.
    """

    job: str
    image: RawImage
    run: int
    state: str
    step: str
    error: str | None
    created: float
    updated: float
    regions: list[RegionRow] = field(default_factory=list)
    next: float | None = None
    tests: list[BootTestRow] = field(default_factory=list)


_SINCE = re.compile(r", since \d\d:\d\d:\d\d UTC")


def is_active(row: JobRow) -> bool:
    """Return whether a job is queued, running, or cancelled and not yet cleaned up."""
    return row.state in LIVE or row.step == CLEANING


def waits_for(row: JobRow) -> str:
    """Return what a running job waits for: EC2, a region, or the end of the hold; else empty."""
    if row.state != "running":
        return ""
    waiting: dict[str, list[str]] = {}
    for region in row.regions:
        if region.detail.startswith("waiting") or region.step == HELD:
            # Times differ by seconds from region to region; what is waited for does not.
            waiting.setdefault(_SINCE.sub("", region.detail), []).append(region.region)
    return "; ".join(f"{', '.join(regions)}: {text}" for text, regions in waiting.items())


@dataclass(frozen=True)
class AMIRow:
    """One AMI that a job made; `state` is one of STATES.

    Times are in seconds since the epoch. `difference` is the difference between record and EC2 at
    `verified_at`, empty when there was none.
    """

    image: str
    job: str
    region: str
    ami: str
    name: str
    architecture: str
    virt_type: str
    volume_type: str
    snapshot: str
    public: bool
    source: str | None = None
    build: str | None = None
    checksum: str | None = None
    disk_sha256: str | None = None
    disk_length: int | None = None
    state: str = ""
    published_at: float | None = None
    changed_by: str | None = None
    changed_at: float | None = None
    reason: str | None = None
    replacement: str | None = None
    deprecate_at: float | None = None
    permissions: dict[str, Any] | None = None
    verified_at: float | None = None
    difference: str | None = None
    attributes: dict[str, Any] | None = None
    publication: str | None = None
    encrypted: bool = False
    options: dict[str, Any] | None = None
    audience: dict[str, Any] | None = None
    shared_at: float | None = None

    @property
    def shared_with(self) -> Audience | None:
        """Return with whom a private AMI is to be shared; None of one that is for everybody."""
        return None if self.audience is None else from_record(Audience, self.audience)

    @property
    def shown_state(self) -> str:
        """Return the state for a person, such as `shared with 2 accounts`."""
        shared_with = self.shared_with
        if self.state != SHARED or shared_with is None:
            return self.state
        return f"shared with {shared_with}"

    @property
    def protected(self) -> bool:
        """Return whether fedimg itself protected the AMI from deregistration."""
        return str((self.options or {}).get("protection", "")).startswith("enabled")

    @property
    def type(self) -> AMIType:
        """Return the AMI's type."""
        return AMIType(Virtualization(self.virt_type), self.volume_type, self.encrypted)

    def __post_init__(self) -> None:
        if not self.state:
            # An older version recorded the AMI.
            object.__setattr__(self, "state", PUBLIC if self.public else PRIVATE)


@dataclass(frozen=True)
class Announcement:
    """A message that not every bus has confirmed yet."""

    id: int
    key: str
    topic: str
    body: dict[str, Any]


@dataclass(frozen=True)
class RejectionRow:
    """The number of messages that were rejected for one fault, and the last one's epoch time."""

    fault: str
    count: int
    last: float
