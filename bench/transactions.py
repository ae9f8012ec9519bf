"""transactions: how many writing transactions one image takes, on a file and on a PostgreSQL."""

from pathlib import Path
from typing import Any

from bench import commits
from bench.deployment import deployed, site
from bench.results import Result
from fedimg.store.store import Store
from lab.postgresql import PostgreSQL, serving

#: How many 8d20456 made, in 34 regions, with load 7 on two cores: the busier a machine, the more.
FORMER = {"file": 488.0, "postgresql": 454.0}
#: The most that a part of those may be.
_PART = 0.4


def run(tiny: bool) -> Result:
    """Publish one image with four AMI types, once with each database; count what is committed.

    Counted are the worker's transactions from the message to the end of the job's clean-up, less
    those of a worker that has nothing to do.
    """
    figures: dict[str, float] = {}
    with serving(PostgreSQL) as server:
        for database, url in (("file", ""), ("postgresql", server.create())):
            with site(regions=2 if tiny else 0) as (folder, told):
                figures |= {
                    f"{database}_{name}": value
                    for name, value in _published(folder, told, url).items()
                }
    for database, former in FORMER.items():
        figures[f"{database}_over_former"] = figures[f"{database}_transactions"] / former
    return Result("transactions", figures, {f"{each}_over_former": _PART for each in FORMER})


def _published(folder: Path, told: dict[str, Any], url: str) -> dict[str, float]:
    counted = folder / "commits"
    changes = {}
    if url:
        Store(folder / "prepared", url, migrate=True).close()
        changes = {"state_directory": f'database = "{url}"\nstate_directory'}
    with deployed(folder, told, changes=changes, program=("bench.commits", str(counted))) as fedimg:
        before = commits.read(counted)
        fedimg.announce([fedimg.build()])
        fedimg.ended(1)
        found = commits.read(counted) - before
        amis = fedimg.public_amis()
    found.pop("fedimg_heartbeats", None)
    return {
        "amis": amis,
        "transactions": found.total(),
        **{f"writes_{name.replace(' ', '_')}": count for name, count in found.most_common(8)},
    }
