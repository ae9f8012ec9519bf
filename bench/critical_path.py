"""critical-path: how much longer a job takes than EC2 itself does, when EC2 takes its time.

The times are realistic ones, a tenth of each: an instance boots in 25 s, a snapshot takes 60 s, a
copy 120 to 600 s by region, an image 5 s, a test boot 40 s (the boot, and checks for the rest).
"""

from typing import Any
from zlib import crc32

from bench.deployment import ZERO, deployed, site
from bench.results import Result
from bench.site_process import regions

BUDGET = {"wall_over_critical_path": 1.05}

_SCALE = 0.1
# Of an instance's boot, in seconds at full scale: until EC2 calls it running, and then its own.
_RUNNING, _BOOT = 10.0, 15.0
_TEST = 40.0
_SNAPSHOT = 60.0
_NEAREST, _FARTHEST = 120.0, 600.0
_IMAGE = 5.0
#: Images that Koji makes at the same time, for the second figure.
_TOGETHER = 3


def run(tiny: bool) -> Result:
    """One image from message to public everywhere; then several at once."""
    scale = _SCALE / 20 if tiny else _SCALE
    count = 3 if tiny else 0
    delays, changes = table(scale, count)
    longest = max(_copy(name) for name in regions(count)[1:])
    origin = _RUNNING + _BOOT + _SNAPSHOT + _IMAGE
    path = scale * (origin + max(longest + _IMAGE, _TEST))
    checks = f'[[checks]]\nname = "as long as a test takes"\ncommand = "sleep {_test(scale)}"\n'
    with (
        site(regions=count, delays=delays, boot_seconds=_BOOT * scale) as (folder, told),
        deployed(folder, told, checks, changes) as fedimg,
    ):
        began = fedimg.announce([fedimg.build()])
        one = fedimg.public_at(1) - began
        together = 1 if tiny else _TOGETHER
        began = fedimg.announce([fedimg.build() for _ in range(together)])
        several = fedimg.public_at(1 + together) - began
    return Result(
        "critical-path",
        {
            "regions": len(told["regions"]),
            "critical_path_seconds": path,
            "wall_seconds": one,
            "wall_over_critical_path": one / path,
            "images_together": together,
            "wall_seconds_together": several,
            "together_over_critical_path": several / path,
        },
        BUDGET,
    )


def table(scale: float, count: int) -> tuple[dict[str, Any], dict[str, str]]:
    """EC2's delays in so many regions, and what they change in fedimg.toml: the waits between two
    looks are fedimg's own, scaled like everything else.
    """
    delays = {
        **ZERO,
        "instance_start": _RUNNING * scale,
        "snapshot": _SNAPSHOT * scale,
        "image": _IMAGE * scale,
        "snapshot_copy_by_region": {name: _copy(name) * scale for name in regions(count)},
    }
    changes = {
        "wait_minimum = 0.2": f"wait_minimum = {1.0 * scale}",
        "wait_maximum = 1": f"wait_maximum = {15.0 * scale}",
        "copy = 120": "copy = 1200",
    }
    return delays, changes


def _copy(region: str) -> float:
    """Return how long a copy into a region takes, in seconds: the regions are unequally far."""
    return _NEAREST + (_FARTHEST - _NEAREST) * (crc32(region.encode()) % 1000) / 999


def _test(scale: float) -> float:
    return round((_TEST - _RUNNING - _BOOT) * scale, 3)
