"""What holds for every test: with $FEDIMG_NO_SKIP, or in CI, a skipped system test has failed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SYSTEM_TESTS = Path(__file__).parent / "system"
NO_SKIP = "FEDIMG_NO_SKIP" in os.environ or os.environ.get("CI") == "true"


def _no_skip(node: pytest.Item | pytest.Collector, report: Any) -> Any:
    # An expected failure is reported as skipped too, and is none.
    if (
        NO_SKIP
        and report.skipped
        and not hasattr(report, "wasxfail")
        and node.path.is_relative_to(SYSTEM_TESTS)
    ):
        report.outcome = "failed"
        report.longrepr = f"skipped where no system test may be: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """Judge a test that skipped itself."""
    return _no_skip(item, (yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[Any]:
    """Judge a module that skipped itself whole."""
    return _no_skip(collector, (yield))
