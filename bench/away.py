"""away: what a further region that never answers costs the images that go to all the others."""

from statistics import median

from bench.deployment import Deployment, deployed, site
from bench.results import Result
from lab import running

_REGIONS, _IN_A_ROW, _ALONE = 34, 10, 5
BUDGET = {"in_a_row_over_without": 1.05, "alone_over_without": 1.05}


def run(tiny: bool) -> Result:
    """Publish images with one region hanging and without, each by a fresh fedimg.

    Many are announced at once, when nobody knows of the region yet, then others one by one. What
    counts is when the last AMI of all the other regions is public.
    """
    regions, many, alone = (3, 2, 1) if tiny else (_REGIONS, _IN_A_ROW, _ALONE)
    figures: dict[str, float] = {"regions": regions, "images_in_a_row": many}
    # The same number of regions that answer.
    for name, count, hanging in (("without", regions - 1, 0), ("hanging", regions, 1)):
        with site(regions=count) as (folder, told):
            # The last region is no origin.
            hung = told["regions"][-hanging:] if hanging else []
            running.tell(told, "faults", {"faults": [_hangs(region) for region in hung]})
            with deployed(folder, told) as fedimg:
                began = fedimg.announce([fedimg.build() for _ in range(many)])
                figures[f"in_a_row_seconds_{name}"] = _public(fedimg, many) - began
                walls = []
                for number in range(1, alone + 1):
                    began = fedimg.announce([fedimg.build()])
                    walls.append(_public(fedimg, many + number) - began)
                figures[f"alone_seconds_{name}"] = median(walls)
    for what in ("in_a_row", "alone"):
        hanging_seconds = figures[f"{what}_seconds_hanging"]
        figures[f"{what}_over_without"] = hanging_seconds / figures[f"{what}_seconds_without"]
    return Result("away", figures, BUDGET)


def _hangs(region: str) -> dict[str, object]:
    return {"fault": "slow", "seconds": 100_000, "region": region}


def _public(fedimg: Deployment, jobs: int) -> float:
    return fedimg.public_at(jobs, states=("complete", "incomplete"))
