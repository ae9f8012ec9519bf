"""`python -m tests.chaos`: a long campaign, or several, reported in build/chaos."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from lab.postgresql import serving
from tests.chaos import several
from tests.chaos.campaign import Orders, run
from tests.postgresql import PostgreSQL

OUTPUT = Path(__file__).parents[2] / "build" / "chaos"


def main() -> int:
    """1 when anything was lost, made twice or left behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--moments", type=int, default=60, help="kills at random moments")
    parser.add_argument("--write-via", choices=("utility", "direct"), default="utility")
    parser.add_argument("--hub-kills", type=int, default=12)
    parser.add_argument("--sample", type=int, help="only so many of the worker's kills")
    parser.add_argument("--faults", type=Path, help="what goes wrong in EC2 besides: docs/lab.md")
    parser.add_argument(
        "--workers", type=int, help="so many of them on one PostgreSQL, struck --moments times"
    )
    given = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    problems = 0
    for seed in given.seeds:
        name = "-".join([given.write_via, *(["faults"] if given.faults else []), str(seed)])
        if given.workers:
            name = f"{given.workers}-workers-{seed}"
        state = OUTPUT / name
        shutil.rmtree(state, ignore_errors=True)
        orders = Orders(
            seed,
            given.write_via,
            given.moments,
            given.hub_kills,
            given.sample,
            given.faults,
        )
        report = _several(state, orders, given.workers) if given.workers else run(state, orders)
        text = json.dumps(report.to_json(), indent=2)
        (OUTPUT / f"{name}.json").write_text(text + "\n")
        print(text)
        problems += len(report.verdict.problems)
    return 1 if problems else 0


def _several(state: Path, orders: Orders, workers: int) -> several.Report:
    with serving(PostgreSQL) as server:
        database = server.blank()
        return several.run(
            state, database, seed=orders.seed, strikes=orders.moments, workers=workers
        )


if __name__ == "__main__":
    sys.exit(main())
