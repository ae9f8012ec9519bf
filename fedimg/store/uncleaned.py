"""Lists, from the database, the resources that may be left in regions that do not answer."""

from __future__ import annotations

from collections.abc import Collection

from fedimg.progress import DONE
from fedimg.store.rows import SHARED
from fedimg.store.store import Store


def may_be_left(store: Store, asked: Collection[str]) -> dict[str, str]:
    """Return, by region, a text that names the resources that jobs may have left there.

    Regions in `asked` are omitted: EC2 itself has listed their resources.
    """
    unpublished: dict[str, list[str]] = {}
    for row in store.jobs():
        for line in row.regions:
            if line.region not in asked and line.step not in DONE:
                unpublished.setdefault(line.region, []).append(row.job)
    private: dict[str, list[str]] = {}
    for ami in store.amis():
        if ami.region not in asked and not ami.public and ami.state != SHARED:
            private.setdefault(ami.region, []).append(f"AMI {ami.ami} from {ami.snapshot}")
    return {
        region: "; ".join(
            [
                *private.get(region, ()),
                *(
                    f"snapshots and AMIs tagged fedimg:job={job}"
                    for job in unpublished.get(region, ())
                ),
            ]
        )
        for region in sorted({*unpublished, *private})
    }
