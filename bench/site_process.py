"""A lab site in a process of its own, so that its work is not counted as fedimg's.

`python -m bench.site_process FOLDER JSON`: the JSON holds `regions` (how many; 0 is every one that
the lab knows), `boot_seconds`, and `delays` as lab.ec2.states has them.
"""

import json
import os
import sys
import threading
from pathlib import Path

# Set before moto is loaded: regions beyond the real ones are made up.
os.environ["MOTO_ALLOW_NONEXISTENT_REGION"] = "true"

from moto.ec2.models.availability_zones_and_regions import (
    RegionsAndZonesBackend,
    Zone,
)

from lab.ec2.partitions import commercial
from lab.ec2.states import Delays
from lab.site import ORIGIN, Site

READY = "the site is ready"


def regions(count: int) -> list[str]:
    """Return the names of that many regions, the origin first."""
    known = [ORIGIN, *(region for region in commercial() if region != ORIGIN)]
    made_up = [f"xx-bench-{number}" for number in range(1, 1 + max(0, count - len(known)))]
    return [*known, *made_up][: count or None]


def main() -> None:
    """Run the site until its maker ends."""
    folder, told = Path(sys.argv[1]), json.loads(sys.argv[2])
    chosen = regions(told["regions"])
    for region in chosen:
        if region not in RegionsAndZonesBackend.zones:
            RegionsAndZonesBackend.zones[region] = [
                Zone(
                    name=f"{region}{letter}",
                    region_name=region,
                    zone_id=f"{region}-az{letter}",
                    zone_type="availability-zone",
                )
                for letter in "ab"
            ]
    with Site(folder, chosen, delays=Delays(**told["delays"]), boot_seconds=told["boot_seconds"]):
        print(READY, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
