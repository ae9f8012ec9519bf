"""looks: the cost of `fedimg status` and `fedimg amis`, with few jobs and with those of years."""

import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import former, many_amis
from bench.command import measured
from bench.results import Result
from bench.silent_site import ORIGIN, settings_file
from fedimg.store.store import Store

_COUNTS = (1_000, 10_000, 100_000)
_AT_ONCE = 1_000
#: A small site's jobs, as after `make demo`.
_FEW = 3
_TIMES = 5
BUDGET = {
    "status_over_former": 0.55,
    "status_most_over_1000": 1.2,
    "amis_most_over_1000": 1.2,
}


def run(tiny: bool) -> Result:
    """Look at a database with more and more jobs, each with four AMIs; no worker runs.

    All times are processor time of the command, which other work on the machine hardly changes.
    """
    counts = (20, 40) if tiny else _COUNTS
    times = 1 if tiny else _TIMES
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        environment = {**os.environ, "FEDIMG_CONFIG": str(settings_file(folder))}
        store = Store(folder / "state")

        def cost(programs: Path, *arguments: str) -> float:
            return measured([*arguments], environment, programs).cpu

        here = former.here()
        looks: dict[str, Callable[[], float]] = {
            "status": lambda: cost(here, "status"),
            "amis": lambda: cost(here, "amis", "--region", ORIGIN),
        }
        many_amis.record(store, _FEW, [ORIGIN])
        if beside := former.programs():
            now, before = former.interleaved(
                looks["status"], lambda: cost(beside, "status"), 1 if tiny else former.PAIRS
            )
            figures |= {"status_seconds": now, "former_status_seconds": before}
            figures["status_over_former"] = now / before
        recorded = _FEW
        for count in counts:
            while recorded < count:
                more = min(_AT_ONCE, count - recorded)
                many_amis.record(store, more, [ORIGIN], recorded)
                recorded += more
            for look, measure in looks.items():
                figures[f"{look}_seconds_{count}"] = statistics.median(
                    measure() for _ in range(times)
                )
        store.close()
    for look in looks:
        found = [figures[f"{look}_seconds_{count}"] for count in counts]
        figures[f"{look}_most_over_1000"] = max(found[1:]) / found[0]
    budget = {key: most for key, most in BUDGET.items() if key in figures}
    return Result("looks", figures, budget)
