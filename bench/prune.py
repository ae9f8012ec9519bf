"""prune: what the decisions of the rules of retention about a large record cost."""

import os
import time
from contextlib import closing

import sqlalchemy as sa

from bench import many_amis
from bench.command import measured
from bench.processes import cpu_seconds
from bench.results import Result
from bench.verify import calls, environment, large_site
from fedimg.store.store import Store
from fedimg.store.tables import amis as amis_table

_IMAGES, _REGIONS = 1000, 34
#: The longest page that EC2 gives.
_PAGE = 1000
_AGE_DAYS = 300
_RULES = "[[retention.rules]]\ndisable_after = 200\ndelete_after = 230\nkeep_newest = 10\n"


def run(tiny: bool) -> Result:
    """Decide about 1,000 images of four types in 34 regions, nearly all of which have to go."""
    images, regions = (12, 2) if tiny else (_IMAGES, _REGIONS)
    with large_site(images, regions) as (folder, site, ec2):
        with closing(Store(folder / "state")) as store:
            store.write(sa.update(amis_table).values(published_at=time.time() - _AGE_DAYS * 86400))
        variables = environment(folder, site, _RULES)
        # EC2 tells no launch of what was never launched.
        prune = ["prune", "--unlaunched", "--json"]
        before, lab_cpu = calls(site), cpu_seconds(ec2)
        explained = measured([*prune, "--dry-run"], variables)
        made = calls(site) - before
        lab_cpu = cpu_seconds(ec2) - lab_cpu
        asked = measured([*prune, "--yes"], variables)
        size = os.stat(folder / "state" / "fedimg.db").st_size
    amis = images * regions * len(many_amis.TYPES)
    due = (images - 10) * regions * len(many_amis.TYPES)
    going = [each for each in explained.answer if each["decision"] == "disable"]
    if (len(explained.answer), len(going), len(asked.answer)) != (amis, due, due):
        raise RuntimeError(
            f"{due} of {amis} AMIs are due, and fedimg said {str(explained.answer)[:500]}"
        )
    figures = {
        "amis": amis,
        "due": due,
        "regions": regions,
        "calls_a_region": (made.total() - made["DescribeRegions"]) / regions,
        **{f"calls_{name}": count for name, count in sorted(made.items())},
        "cpu_seconds": explained.cpu,
        "cpu_microseconds_an_ami": 1e6 * explained.cpu / amis,
        "peak_mib": explained.peak_mib,
        "wall_seconds": explained.wall,
        "lab_cpu_seconds": lab_cpu,
        "request_cpu_seconds": asked.cpu,
        "request_peak_mib": asked.peak_mib,
        "request_database_mib": size / 2**20,
    }
    return Result("prune", figures, {"calls_a_region": -(-amis // regions // _PAGE)})
