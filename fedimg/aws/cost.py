"""Estimate what a job pays to AWS for an image, from quantities and from prices in the settings."""

from __future__ import annotations

from dataclasses import dataclass

from fedimg.aws.plan import Plan
from fedimg.config import EC2
from fedimg.config.prices import Prices

_GIB = 1024**3
#: The size of a block of the EBS direct API, in bytes.
_BLOCK = 512 * 1024
#: How long an instance runs for a write or a boot check, in hours: some minutes, rounded up.
_INSTANCE_HOURS = 0.25


@dataclass(frozen=True)
class Cost:
    """The quantities of one run, at most: zeros of the image are counted as data.

    `snapshots` and `transfer` are in GiB, `instance_hours` in hours, `blocks` in numbers. `once` is
    what a run costs, and a failed one at most; `monthly` is what the snapshots cost that stay.
    """

    snapshots: float
    transfer: float
    instance_hours: float
    blocks: int
    once: float
    monthly: float
    currency: str

    def __str__(self) -> str:
        return (
            f"at most {self.once:.2f} {self.currency} for a run "
            f"({self.transfer:.1f} GiB to further regions, {self.instance_hours:g} h of instances, "
            f"{self.blocks} blocks), as much again for the retry of a failed one; then "
            f"{self.monthly:.2f} {self.currency} a month ({self.snapshots:.1f} GiB of snapshots)"
        )


def estimate(size: int, plan: Plan, settings: EC2) -> Cost:
    """Return what publishing an image of `size` uncompressed bytes by a plan costs."""
    prices: Prices = settings.prices
    gib, further = size / _GIB, len(plan.types) - 1
    tests = sum(len(types) for types in plan.tested.values()) + len(plan.tested_encrypted)
    direct = settings.write_via == "direct"
    hours = _INSTANCE_HOURS * (tests + (not direct))
    blocks = -(-size // _BLOCK) if direct else 0
    once = (
        gib * further * prices.transfer_gib
        + hours * prices.instance_hour
        + blocks / 1000 * prices.thousand_blocks
    )
    snapshots = gib * (len(plan.types) + len(plan.encrypted))
    return Cost(
        snapshots,
        gib * further,
        hours,
        blocks,
        once,
        snapshots * prices.snapshot_gib_month,
        prices.currency,
    )
