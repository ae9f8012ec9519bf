"""Each benchmark at its smallest: that it runs and tells what it promises, whatever it finds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import page
from bench.__main__ import BENCHMARKS
from bench.results import Result, bars

ROOT = Path(__file__).parent.parent.parent
#: What others read in the files.
KEYS = {
    "publish": {"calls_per_ami", "wall_over_replay", "wall_seconds", "cpu_seconds", "ec2_calls"},
    "critical-path": {"wall_over_critical_path"},
    "write": {"utility_over_limit", "direct_over_limit", "direct_peak_mib"},
    "looks": {"status_seconds_40", "status_most_over_1000", "amis_most_over_1000"},
    "idle": {"file_cpu_percent", "postgresql_transactions_a_second", "file_pss_mib"},
    "transactions": {"file_transactions", "postgresql_over_former"},
    "queue": {
        "submitted_a_second_20",
        "postgresql_submitted_a_second_20",
        "list_seconds_20",
        "worker_mib_20",
    },
    "intake": {"messages_a_second", "cpu_microseconds_a_message"},
    "scale": {"jobs_an_hour_1", "takeover_seconds_2", "commits_a_job_2"},
    "away": {"in_a_row_over_without", "alone_over_without"},
    "outages": {"disabled_in_mid_job_back_seconds", "appears_old_job_seconds"},
    "regions": {"wall_seconds_2", "calls_per_ami_2"},
    "catalogue": {"cpu_seconds", "wall_seconds", "unchanged_cpu_seconds", "peak_mib"},
    "verify": {"calls_a_region", "cpu_seconds", "peak_mib", "lab_cpu_seconds"},
    "prune": {"calls_a_region", "cpu_seconds", "peak_mib", "request_cpu_seconds"},
}


#: What no change waits for: each of the others takes 17 s of a processor at the least.
LONG = BENCHMARKS.keys() - {"publish"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in BENCHMARKS],
)
def test_benchmark_prints_its_figures(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", name, "--tiny", "--results", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / f"{name}.json").read_text())
    assert set(told) == {"name", "figures", "budget"}
    assert told["name"] == name
    assert KEYS[name] <= set(told["figures"])
    assert set(told["budget"]) <= set(told["figures"])
    for key, value in told["figures"].items():
        assert value >= 0, key
        assert key in done.stdout


def test_unknown_benchmark_is_refused_and_the_known_ones_named() -> None:
    command = [sys.executable, "-m", "bench", "speed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "critical-path" in done.stderr


def test_budget_may_be_used_up_exactly() -> None:
    figures = {"ratio": 1.05}
    assert Result("it", figures, {"ratio": 1.05}).kept
    assert not Result("it", figures, {"ratio": 1.04}).kept


def test_documentation_page_gets_new_tables_and_keeps_its_text(tmp_path: Path) -> None:
    Result("write", {"ratio": 1.5, "seconds": 12}, {"ratio": 2}).write(tmp_path)
    file = tmp_path / "page.md"
    file.write_text("Before.\n<!-- bench write -->\nold\n<!-- end -->\nAfter.\n")
    assert page.update(["write", "queue"], tmp_path, file) == ["write"]
    written = file.read_text()
    assert "| `ratio` | 1.50 | 2 |\n" in written
    assert "old" not in written
    assert written.startswith("Before.\n")
    assert written.endswith("After.\n")
    page.update(["write"], tmp_path, file)
    assert file.read_text() == written


def test_bars_are_as_long_as_their_values() -> None:
    plot = bars("t", [("a", 1.0), ("b", 2.0)], "s", width=4).splitlines()
    assert plot[1:] == ["a ██ 1 s", "b ████ 2 s"]
