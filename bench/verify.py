"""verify: what the comparison of a large record with EC2 costs, in calls, time and memory."""

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bench import many_amis
from bench.command import measured
from bench.deployment import PATIENCE
from bench.processes import cpu_seconds
from bench.results import Result
from bench.site_process import READY
from fedimg.store.store import Store
from lab import running
from lab.access_keys import AccessKey
from lab.clients import aws_environment
from lab.processes import Process

_IMAGES, _REGIONS = 1000, 34
#: The longest page that EC2 gives.
_PAGE = 1000


@contextmanager
def large_site(images: int, regions: int) -> Iterator[tuple[Path, dict[str, Any], int]]:
    """Yield the folder of a site with so many images in its record and its EC2, which runs.

    Beside it are what the site's file tells, and the number of the EC2's process.
    """
    told = json.dumps({"images": images, "regions": regions})
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        command = [sys.executable, "-m", "bench.many_amis", str(folder), told]
        with Process(command, Path.cwd(), {}, folder / "ec2.log") as ec2:
            ec2.wait_for(READY, PATIENCE)
            site = running.read(folder)
            with closing(Store(folder / "state")) as store:
                many_amis.record(store, images, site["regions"])
            yield folder, site, ec2.pid


def run(tiny: bool) -> Result:
    """Compare 1,000 images of four types in 34 regions with an EC2 that has just these."""
    images, regions = (3, 2) if tiny else (_IMAGES, _REGIONS)
    with large_site(images, regions) as (folder, site, ec2):
        variables = environment(folder, site)
        before, lab_cpu = calls(site), cpu_seconds(ec2)
        cost = measured(["verify", "--json"], variables)
        made = calls(site) - before
        lab_cpu = cpu_seconds(ec2) - lab_cpu
    amis = images * regions * len(many_amis.TYPES)
    if cost.answer["amis"] != amis or cost.answer["differences"] or cost.answer["not_compared"]:
        raise RuntimeError(
            f"the record and EC2 are equal, and fedimg said {str(cost.answer)[:500]}"
        )
    of_regions = made.total() - made["DescribeRegions"]
    pages = -(-amis // regions // _PAGE) + 2 * -(-images // _PAGE) + 2
    figures = {
        "amis": amis,
        "regions": regions,
        "calls_a_region": of_regions / regions,
        **{f"calls_{name}": count for name, count in sorted(made.items())},
        "cpu_seconds": cost.cpu,
        "cpu_microseconds_an_ami": 1e6 * cost.cpu / amis,
        "peak_mib": cost.peak_mib,
        "wall_seconds": cost.wall,
        "lab_cpu_seconds": lab_cpu,
    }
    return Result("verify", figures, {"calls_a_region": pages})


def environment(folder: Path, site: dict[str, Any], settings: str = "") -> dict[str, str]:
    """Return the environment of a fedimg on this site; `settings` are more of its configuration."""
    config = folder / "fedimg.toml"
    config.write_text(
        f'site = "{many_amis.SITE}"\nstate_directory = "state"\n'
        f'[ec2]\norigin = "{site["regions"][0]}"\n{settings}'
    )
    key = AccessKey(*site["account_key"])
    aws = aws_environment(folder / "aws", site["ec2"], site["regions"][0], key)
    return {**os.environ, **aws, "FEDIMG_CONFIG": str(config)}


def calls(site: dict[str, Any]) -> Counter[str]:
    """Return how often each call was made to the EC2 of a site."""
    return Counter(running.ask(site, "calls").get("EC2", {}))
