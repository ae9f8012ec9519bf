"""Compare the recorded AMIs of one region with what EC2 shows there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from fedimg.aws import amis, tags
from fedimg.aws.bundle.place import is_bundle
from fedimg.aws.inventory import UNBLOCKED, Inventory
from fedimg.images import INSTANCE_STORE, Options
from fedimg.records import from_record
from fedimg.store import rows
from fedimg.store.rows import AMIRow

#: EC2 itself deprecates each public AMI two years after its creation. The days of these years, and
#: how far a date may be from that to be EC2's own, in days.
_EC2_DEPRECATES, _EC2_DEPRECATES_WITHIN = 730, 3
#: EC2 rounds the time of a deprecation to the minute.
_ROUNDED_SECONDS = 60.0
#: The states in which EC2 has not confirmed a change yet, with the words for it.
PENDING = {
    rows.WITHDRAWING: "its withdrawal is not finished",
    rows.RESTORING: "its restoration is not finished",
    rows.SHARING: "the change of its audience is not finished",
    rows.DISABLING: "it is not disabled yet",
    rows.DELETING: "it is not removed yet",
}
_ENCRYPTION = {True: "encrypted", False: "not encrypted"}


class Kind(StrEnum):
    """The kind of a difference between the record and EC2."""

    MISSING = "missing"
    PRIVATE = "private"
    PUBLIC = "public"
    DISABLED = "disabled"
    SNAPSHOT_MISSING = "snapshot missing"
    SNAPSHOT_PRIVATE = "snapshot private"
    SNAPSHOT_PUBLIC = "snapshot public"
    OTHER_SNAPSHOT = "other snapshot"
    ATTRIBUTES = "attributes"
    DEPRECATION = "deprecation"
    PENDING = "pending"
    BLOCKED = "blocked"
    UNRECORDED = "unrecorded"
    BYTES = "bytes"
    PARAMETER = "parameter"
    NOT_SHARED = "not shared"
    SHARED_WITH_OTHERS = "shared with others"


#: What a repair ends.
_REPAIRED = (
    Kind.PRIVATE,
    Kind.PUBLIC,
    Kind.SNAPSHOT_PRIVATE,
    Kind.SNAPSHOT_PUBLIC,
    Kind.NOT_SHARED,
    Kind.SHARED_WITH_OTHERS,
)


@dataclass(frozen=True)
class Difference:
    """One difference; `id` is that of the AMI or snapshot, the parameter's or the region's name."""

    kind: Kind
    region: str
    id: str
    job: str
    image: str
    text: str


def compare(
    recorded: Iterable[AMIRow],
    seen: Inventory,
    deprecating: Collection[tuple[str, str]] = (),
    repairing: Collection[tuple[str, str]] = (),
) -> list[Difference]:
    """Return the differences of some recorded AMIs of one region.

    The record has to be read before EC2, since an AMI is recorded as public after it became public.
    `deprecating` are the jobs and regions in which the worker is giving EC2 a time of deprecation,
    `repairing` the regions and ids of what it is making as recorded.
    """
    recorded = list(recorded)
    # A snapshot stays public as long as one of its AMIs is.
    sharing = (rows.PUBLIC, rows.RESTORING, rows.DISABLING)
    shared = {row.snapshot for row in recorded if row.state in sharing}
    found = [
        Difference(kind, row.region, id, row.job, row.image, text)
        for row in recorded
        for kind, id, text in _of_ami(row, seen, shared)
    ]
    return [unless_pending(each, deprecating, repairing) for each in found]


def unless_pending(
    difference: Difference,
    deprecating: Collection[tuple[str, str]],
    repairing: Collection[tuple[str, str]],
) -> Difference:
    """Return a difference as pending, if the worker is about to end it."""
    region, kind = difference.region, difference.kind
    if kind is Kind.DEPRECATION and (difference.job, region) in deprecating:
        return replace(difference, kind=Kind.PENDING, text="its deprecation is not finished")
    if kind in _REPAIRED and (region, difference.id) in repairing:
        text = f"{difference.text}; its repair is not finished"
        return replace(difference, kind=Kind.PENDING, text=text)
    return difference


def blocked(seen: Inventory) -> Iterator[Difference]:
    """Yield a difference for each kind of block public access that is on in the region."""
    for what, state in (("AMIs", seen.image_block), ("snapshots", seen.snapshot_block)):
        if state != UNBLOCKED:
            hides = (
                "; EC2 treats public snapshots as private" if state.endswith("all-sharing") else ""
            )
            text = f"block public access for {what} is on ({state}){hides}"
            yield Difference(Kind.BLOCKED, seen.region, seen.region, "", "", text)


def unrecorded(
    recorded: Iterable[AMIRow],
    seen: Inventory,
    live: Collection[str],
    kept: Collection[tuple[str, str]],
) -> Iterator[Difference]:
    """Yield a difference for what carries the site's tag and is unrecorded.

    `recorded` are all AMIs of the region, also the deleted ones; resources of the `live` jobs are
    left out, as these jobs are still making them, and so are those of the jobs that have them
    `kept` in a region, as they wait there for room.
    """
    known: set[str] = set()
    for row in recorded:
        known |= {row.ami, row.snapshot}
    described: list[tuple[str, Mapping[str, Any]]] = [
        *seen.images.items(),
        *seen.snapshots.items(),
    ]
    for id, resource in described:
        values = tags.read(resource.get("Tags"))
        job, image = values.get(tags.JOB, ""), values.get(tags.IMAGE, "")
        if id in known or job in live or (job, seen.region) in kept:
            continue
        public = bool(resource.get("Public")) or id in seen.public_snapshots
        text = f"it carries this site's tag and is in no record; it is {_words(public)}"
        yield Difference(Kind.UNRECORDED, seen.region, id, job, image, text)


def _of_ami(
    row: AMIRow, seen: Inventory, shared: Collection[str]
) -> Iterator[tuple[Kind, str, str]]:
    image = seen.images.get(row.ami)
    if pending := PENDING.get(row.state):
        yield Kind.PENDING, row.ami, pending
    if row.state == rows.DELETED:
        if image is not None:
            yield Kind.PUBLIC, row.ami, "it is recorded as removed and still exists"
        return
    if row.state == rows.DELETING:
        return
    # About an unknown one a person has to decide; what matters before that is who may use it.
    if image is None and row.state != rows.UNKNOWN:
        yield Kind.MISSING, row.ami, "it is recorded and no longer exists"
    public = bool(image and image.get("Public"))
    if row.state == rows.PUBLIC:
        yield from _of_public(row, image, seen)
    elif row.state not in (rows.RESTORING, rows.DISABLING):
        if row.state == rows.SHARED and image is not None and image.get("State") == "disabled":
            yield Kind.DISABLED, row.ami, "it is recorded as shared and is disabled"
        if public and row.state != rows.WITHDRAWING:
            yield Kind.PUBLIC, row.ami, f"it is recorded as {row.state} and is public"
        # A bundle is in nobody's reach, whatever its AMIs are.
        if row.snapshot in seen.public_snapshots - set(shared) and not is_bundle(row.snapshot):
            text = f"it is public, and its AMI {row.ami} is recorded as {row.state}"
            yield Kind.SNAPSHOT_PUBLIC, row.snapshot, text
    if image is not None and row.state != rows.UNKNOWN:
        yield from _of_attributes(row, image)


def _of_public(
    row: AMIRow, image: Mapping[str, Any] | None, seen: Inventory
) -> Iterator[tuple[Kind, str, str]]:
    if image is not None:
        if image.get("State") == "disabled":
            yield Kind.DISABLED, row.ami, "it is recorded as public and is disabled"
        elif not image.get("Public"):
            yield Kind.PRIVATE, row.ami, "it is recorded as public and is private"
        if different := deprecation_difference(row, image):
            yield Kind.DEPRECATION, row.ami, different
    if row.snapshot not in seen.snapshots:
        gone = f"the snapshot of AMI {row.ami} no longer exists"
        if is_bundle(row.snapshot):
            gone = f"the bundle of AMI {row.ami} is no longer whole: no instance starts from it"
        yield Kind.SNAPSHOT_MISSING, row.snapshot, gone
    elif row.snapshot not in seen.public_snapshots:
        text = f"the snapshot of AMI {row.ami} is private"
        yield Kind.SNAPSHOT_PRIVATE, row.snapshot, text


def _of_attributes(row: AMIRow, image: Mapping[str, Any]) -> Iterator[tuple[Kind, str, str]]:
    made_from = amis.snapshots_of(image)
    if made_from != {row.snapshot}:
        others = ", ".join(sorted(made_from)) or "no snapshot"
        yield Kind.OTHER_SNAPSHOT, row.ami, f"it is made from {others}, recorded is {row.snapshot}"
    disks = [each["Ebs"] for each in image.get("BlockDeviceMappings", ()) if "Ebs" in each]
    types = {str(disk.get("VolumeType", "")) for disk in disks}
    encrypted = {_ENCRYPTION[bool(disk.get("Encrypted"))] for disk in disks}
    if image.get("RootDeviceType") == INSTANCE_STORE:
        types, encrypted = {INSTANCE_STORE}, {_ENCRYPTION[False]}
    for what, shown, recorded in (
        ("name", image.get("Name", ""), row.name),
        ("architecture", image.get("Architecture", ""), row.architecture),
        ("virtualization type", image.get("VirtualizationType", ""), row.virt_type),
        ("volume type", ", ".join(sorted(types)), row.volume_type),
        ("snapshot", ", ".join(sorted(encrypted)), _ENCRYPTION[row.encrypted]),
    ):
        if shown != recorded:
            text = f'its {what} is "{shown}", recorded is "{recorded}"'
            yield Kind.ATTRIBUTES, row.ami, text
    for text in option_differences(row, image):
        yield Kind.ATTRIBUTES, row.ami, text


def option_differences(row: AMIRow, image: Mapping[str, Any]) -> Iterator[str]:
    """Yield how an AMI's options on EC2 differ from the recorded ones, and its watermarks.

    The UEFI data of an AMI cannot be changed, and DescribeImages does not show it.
    """
    if marks := [str(each["WatermarkKey"]) for each in image.get("ImageWatermarks", ())]:
        yield f"it has the watermark {', '.join(marks)}, with which EC2 lets it not become public"
    if row.options is None:
        return
    chosen = from_record(Options, row.options)
    mappings = image.get("BlockDeviceMappings", ())
    disk: Mapping[str, Any] = next((each["Ebs"] for each in mappings if "Ebs" in each), {})
    types = image.get("InstanceTypeSpecification") or {}
    protection = image.get("DeregistrationProtection", "disabled")
    sriov = image.get("SriovNetSupport") or "none"
    compared = [("SR-IOV support", sriov, "simple" if chosen.sriov else "none")]
    if chosen.iops is not None:
        compared.append(("IOPS", str(disk.get("Iops")), str(chosen.iops)))
        compared.append(("throughput", str(disk.get("Throughput")), str(chosen.throughput)))
    for what, name, recorded in (
        ("supported", "SupportedInstanceTypes", chosen.supported),
        ("unsupported", "UnsupportedInstanceTypes", chosen.unsupported),
    ):
        listed = sorted(str(each["InstanceType"]) for each in types.get(name, ()))
        shown = ", ".join(listed) or "none"
        compared.append((f"{what} instance types", shown, ", ".join(sorted(recorded)) or "none"))
    if row.state == rows.PUBLIC:
        compared.append(("deregistration protection", protection, chosen.protection))
    for what, seen, recorded_as in compared:
        if seen != recorded_as:
            yield f'its {what} is "{seen}", recorded is "{recorded_as}"'


def deprecation_difference(row: AMIRow, image: Mapping[str, Any]) -> str | None:
    """Return how EC2's time of deprecation of an AMI differs from the recorded one, or None."""
    shown = _time(image.get("DeprecationTime"))
    if row.deprecate_at is not None:
        if shown is None or abs(shown.timestamp() - row.deprecate_at) > _ROUNDED_SECONDS:
            recorded = datetime.fromtimestamp(row.deprecate_at, UTC)
            return f"EC2 deprecates it {_when(shown)}, recorded is {_when(recorded)}"
    elif chosen_deprecation(image) is not None:
        return f"EC2 deprecates it {_when(shown)}, and no rule of this site did that"
    return None


def chosen_deprecation(image: Mapping[str, Any]) -> float | None:
    """Return when EC2 deprecates an AMI, in epoch seconds; None if EC2 itself chose that date."""
    shown, created = _time(image.get("DeprecationTime")), _time(image.get("CreationDate"))
    if shown is None or created is None:
        return None
    of_ec2 = created + timedelta(days=_EC2_DEPRECATES)
    of_ec2_itself = abs(shown - of_ec2) <= timedelta(days=_EC2_DEPRECATES_WITHIN)
    return None if of_ec2_itself else shown.timestamp()


def _when(time: datetime | None) -> str:
    return f"{time:%Y-%m-%dT%H:%MZ}" if time else "never"


def _time(text: Any) -> datetime | None:
    return datetime.fromisoformat(str(text)) if text else None


def _words(public: bool) -> str:
    return "public" if public else "private"
