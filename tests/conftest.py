"""What every test may have, a database and a Koji, and what holds for all of them.

With $FEDIMG_NO_SKIP, or in CI, a skipped system test has failed.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from fedimg.jobs import Jobs
from fedimg.store import Store
from lab.koji import Koji
from lab.postgresql import serving
from tests.postgresql import PostgreSQL

# How long an example takes is the machine's affair.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a module's tests on each of the DATABASES that it names, less those of a file alone."""
    databases = getattr(metafunc.module, "DATABASES", None)
    file_alone = metafunc.definition.get_closest_marker("file")
    if databases and "store" in metafunc.fixturenames and not file_alone:
        metafunc.parametrize("store", databases, indirect=True)


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new state directory, made once: its tables take a quarter of a second."""
    directory = tmp_path_factory.mktemp("blank")
    Store(directory).close()
    return directory


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server that is started for the first test which asks for it."""
    with serving(PostgreSQL) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A database: a file, or a PostgreSQL for a module that names both."""
    if getattr(request, "param", "sqlite") == "postgresql":
        (tmp_path / "state").mkdir()
        url = request.getfixturevalue("postgresql").blank()
        store = Store(tmp_path / "state", url)
    else:
        shutil.copytree(request.getfixturevalue("blank"), tmp_path / "state")
        store = Store(tmp_path / "state")
    yield store
    store.close()


@pytest.fixture
def jobs(store: Store) -> Iterator[Jobs]:
    jobs = Jobs(store)
    yield jobs
    jobs.close()


@pytest.fixture
def koji(tmp_path: Path) -> Iterator[Koji]:
    koji = Koji(tmp_path / "koji")
    yield koji
    koji.close()
