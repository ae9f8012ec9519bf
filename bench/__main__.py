"""`python -m bench [NAME …]`: run benchmarks, show what they found, keep it in build/bench."""

import argparse
import importlib
import sys
from pathlib import Path

from rich.console import Console

from bench import page
from bench.results import RESULTS, Result

#: Name on the command line to module. Loaded one at a time: what another needs may be missing.
BENCHMARKS = {
    "publish": "publish",
    "critical-path": "critical_path",
    "write": "write",
    "looks": "looks",
    "idle": "idle",
    "transactions": "transactions",
    "queue": "waiting_jobs",
    "intake": "intake",
    "regions": "regions",
    "verify": "verify",
    "prune": "prune",
    "catalogue": "catalogue",
    "away": "away",
    "outages": "outages",
    "scale": "several_workers",
}


def main() -> int:
    """Run what is asked for; the exit status is 1 when a budget is not kept."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}")
    parser.add_argument(
        "--tiny", action="store_true", help="so small that the figures mean nothing: to try it out"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help="run nothing: put what was found last into docs/",
    )
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    console = Console(width=None if sys.stdout.isatty() else 100)
    if given.write_docs:
        for each in page.PAGES:
            put = page.update(list(BENCHMARKS), given.results, each)
            console.print(f"{each.name} has {', '.join(put) or 'nothing new'}")
        return 0
    kept = True
    for name in given.names or BENCHMARKS:
        result = run(name, tiny=given.tiny)
        result.write(given.results)
        result.show(console)
        console.print()
        kept = kept and result.kept
    return 0 if kept or given.tiny else 1


def run(name: str, *, tiny: bool) -> Result:
    """One benchmark's result."""
    result: Result = importlib.import_module(f"bench.{BENCHMARKS[name]}").run(tiny)
    return result


if __name__ == "__main__":
    sys.exit(main())
