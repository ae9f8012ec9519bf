"""What may be left in regions that cannot be asked: from the record, for a person to look for."""

from __future__ import annotations

from collections.abc import Collection

from fedimg.progress import PUBLIC
from fedimg.store.store import Store


def may_be_left(store: Store, asked: Collection[str]) -> dict[str, str]:
    """Return, a region that is not among those `asked`, what jobs may have left there, in words."""
    begun: dict[str, list[str]] = {}
    for row in store.jobs():
        for line in row.regions:
            if line.region not in asked and line.step != PUBLIC:
                begun.setdefault(line.region, []).append(row.job)
    private: dict[str, list[str]] = {}
    for ami in store.amis():
        if ami.region not in asked and not ami.public:
            private.setdefault(ami.region, []).append(f"AMI {ami.ami} from {ami.snapshot}")
    return {
        region: "; ".join(
            [
                *private.get(region, ()),
                *(f"snapshots and AMIs tagged fedimg:job={job}" for job in begun.get(region, ())),
            ]
        )
        for region in sorted({*begun, *private})
    }
