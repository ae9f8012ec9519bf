"""regions: what a job costs and how long it takes as regions grow from 1 to 60."""

from bench.deployment import deployed, site
from bench.results import Result, bars

_COUNTS = (1, 10, 20, 40, 60)


def run(tiny: bool) -> Result:
    """Publish one image in each number of regions, each time by a fresh fedimg."""
    counts = (2,) if tiny else _COUNTS
    figures: dict[str, float] = {}
    walls: list[tuple[str, float]] = []
    for count in counts:
        # A site each: what one has built, the next one's fedimg would find in Koji and publish too.
        with site(regions=count) as (folder, told), deployed(folder, told) as fedimg:
            amis = fedimg.public_amis()
            cpu = fedimg.cpu_seconds()
            began = fedimg.announce([fedimg.build()])
            wall = fedimg.public_at(1) - began
            amis = fedimg.public_amis() - amis
            figures[f"wall_seconds_{count}"] = wall
            figures[f"cpu_seconds_{count}"] = fedimg.cpu_seconds() - cpu
            figures[f"calls_per_ami_{count}"] = len(fedimg.ec2_calls()) / amis
            figures[f"memory_mib_{count}"] = fedimg.memory_mib()
            walls.append((f"{count} regions", wall))
    return Result("regions", figures, plot=bars("message to public AMIs", walls, "s"))
