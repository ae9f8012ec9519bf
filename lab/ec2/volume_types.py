"""The limits of each EBS volume type: sizes, IOPS, throughput (EBS user guide, November 2026)."""

from collections.abc import Callable
from dataclasses import dataclass

from lab.ec2.errors import EC2Error, combination, invalid


@dataclass(frozen=True)
class VolumeType:
    """Sizes in GiB, throughput in MiB/s; `iops` is None where they cannot be chosen."""

    smallest: int
    largest: int
    iops: tuple[int, int] | None = None
    iops_per_gib: int = 0
    iops_required: bool = False
    throughput: tuple[int, int] | None = None
    default_iops: Callable[[int], int | None] = lambda size: None
    default_throughput: int | None = None


DEFAULT = "gp2"

TYPES = {
    "standard": VolumeType(1, 1024),
    "gp2": VolumeType(1, 16384, default_iops=lambda size: min(16000, max(100, 3 * size))),
    "gp3": VolumeType(
        1,
        65536,
        iops=(3000, 80000),
        iops_per_gib=500,
        throughput=(125, 2000),
        default_iops=lambda size: 3000,
        default_throughput=125,
    ),
    "io1": VolumeType(4, 16384, iops=(100, 64000), iops_per_gib=50, iops_required=True),
    "io2": VolumeType(4, 65536, iops=(100, 256000), iops_per_gib=1000, iops_required=True),
    "st1": VolumeType(125, 16384),
    "sc1": VolumeType(125, 16384),
}


@dataclass(frozen=True)
class Shape:
    """A volume's type, size and speed, checked and with its defaults filled in."""

    type: str
    size: int
    iops: int | None
    throughput: int | None


def shape(
    name: str | None,
    size: int | None,
    iops: int | None,
    throughput: int | None,
    snapshot: tuple[str, int] | None = None,
) -> Shape:
    """Raise EC2's error for a volume that cannot exist.

    `size` is in GiB; `snapshot` is the id and the size of the snapshot behind the volume, which
    is the default size and the smallest one.
    """
    name = name or DEFAULT
    if name not in TYPES:
        raise invalid(name, "volumeType", f"Valid values: {', '.join(TYPES)}.")
    kind = TYPES[name]
    if size is None:
        if snapshot is None:
            raise EC2Error(
                "MissingParameter", "The request must contain the parameter size/snapshot"
            )
        size = snapshot[1]
    if snapshot and size < snapshot[1]:
        raise EC2Error(
            "InvalidBlockDeviceMapping",
            f"Volume of size {size}GB is smaller than snapshot '{snapshot[0]}', "
            f"expect size >= {snapshot[1]}GB",
        )
    if not kind.smallest <= size <= kind.largest:
        raise EC2Error(
            "InvalidParameterValue",
            f"Volume of {size}GiB is not allowed for {name} volumes: sizes are "
            f"{kind.smallest} to {kind.largest} GiB.",
        )
    _check_iops(name, kind, size, iops)
    _check_throughput(name, kind, iops, throughput)
    return Shape(
        name,
        size,
        iops or kind.default_iops(size),
        throughput or kind.default_throughput,
    )


def _check_iops(name: str, kind: VolumeType, size: int, iops: int | None) -> None:
    if iops is None:
        if kind.iops_required:
            raise EC2Error(
                "MissingParameter", f"The parameter iops must be specified for {name} volumes."
            )
        return
    if kind.iops is None:
        raise combination(f"The parameter iops is not supported for {name} volumes.")
    least, most = kind.iops
    if iops < least:
        raise EC2Error(
            "InvalidParameterValue",
            f"Volume iops of {iops} is too low; minimum is {least}.",
        )
    if iops > most:
        raise EC2Error(
            "InvalidParameterValue", f"Volume iops of {iops} is too high; maximum is {most}."
        )
    # The baseline comes with a volume of any size; only what is above it is bound to the size.
    if iops > least and iops > kind.iops_per_gib * size:
        raise EC2Error(
            "InvalidParameterValue",
            f"Iops to volume size ratio of {iops / size:.6f} is too high; maximum is "
            f"{kind.iops_per_gib}",
        )


def _check_throughput(
    name: str, kind: VolumeType, iops: int | None, throughput: int | None
) -> None:
    if throughput is None:
        return
    if kind.throughput is None:
        raise combination(f"The parameter throughput is not supported for {name} volumes.")
    least, most = kind.throughput
    if not least <= throughput <= most:
        raise EC2Error(
            "InvalidParameterValue",
            f"Throughput of {throughput} MiB/s is not allowed for {name} volumes: "
            f"{least} to {most} MiB/s.",
        )
    if throughput > (iops or 3000) * 0.25:
        raise EC2Error(
            "InvalidParameterValue",
            f"Throughput (MiBps) to iops ratio of {throughput / (iops or 3000):.6f} is too high; "
            "maximum is 0.250000.",
        )
