"""The fixtures of all tests, a database and a Koji, and the rules that hold for all of them.

A test that starts a process says so, by the mark `process` or a fixture that asks for `processes`:
`make test-quick` runs the others, and whichever of them starts one has failed.

With $FEDIMG_NO_SKIP, or in CI, a skipped system test has failed, and so has a skipped test of
virtual machines.
"""

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from fedimg.jobs.queue import JobQueue
from fedimg.store.store import Store
from lab import image
from lab.image import Image
from lab.koji import Koji
from lab.machines import virtual_machines
from lab.machines.programs import MissingProgram
from lab.postgresql import serving
from tests.postgresql import PostgreSQL

# How long an example takes is the machine's affair.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

TESTS = Path(__file__).parent
SYSTEM_TESTS = TESTS / "system"
LONG = (SYSTEM_TESTS, TESTS / "bench", TESTS / "chaos")
#: What ends a test of whole processes that hangs; pyproject.toml has the others'.
WHOLE_SECONDS = 1800
NO_SKIP = "FEDIMG_NO_SKIP" in os.environ or os.environ.get("CI") == "true"


def _whole(node: pytest.Item | pytest.Collector) -> bool:
    """Return whether it is a test of whole processes or whole machines."""
    virtual = node.get_closest_marker("vm") is not None
    return virtual or node.path.is_relative_to(SYSTEM_TESTS)


def _no_skip(node: pytest.Item | pytest.Collector, report: Any) -> Any:
    # An expected failure is reported as skipped too, and is none.
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail") and _whole(node):
        report.outcome = "failed"
        report.longrepr = f"skipped where no such test may be: {report.longrepr}"
    return report


def _starts_processes(item: pytest.Item) -> bool:
    """Return whether a test says that it starts a process, itself or by a fixture."""
    fixtures = getattr(item, "fixturenames", ())
    parameters = getattr(item, "callspec", None)
    return (
        item.get_closest_marker("vm") is not None
        or any(item.path.is_relative_to(folder) for folder in LONG)
        or "processes" in fixtures
        or (parameters is not None and "postgresql" in parameters.params.values())
    )


# Nearly all that loading makes stays: to look through it again and again for garbage takes a
# quarter of the time that it takes to load.
gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Collect garbage from here on, but none of what has been loaded, and less often than usual.

    By Python's own threshold of 700 objects this was a quarter of the tests' processor time.
    """
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()


class Started:
    """The programs that the running test has started, by Python's audit events."""

    #: What Python itself calls to find a library or tell the system's name, once a process.
    OWN = frozenset({"ldconfig", "gcc", "cc", "ld", "objdump", "file", "uname"})

    def __init__(self) -> None:
        self.programs: list[str] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("subprocess.Popen", "os.posix_spawn", "os.spawn", "os.exec", "os.system"):
            program = Path(os.fsdecode(arguments[0] or "?")).name
            if program not in self.OWN:
                self.programs.append(program)
        elif event in ("os.fork", "os.forkpty"):
            self.programs.append(event)


# A hook cannot be taken out again.
STARTED = Started()


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what starts processes, before anything is chosen by marks.

    A test of whole processes has several waits of four minutes, and so more time than the others.
    """
    if _starts_processes(item):
        item.add_marker("process")
    whole = any(item.path.is_relative_to(folder) for folder in LONG)
    if whole and item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(WHOLE_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Look at what one test starts, its fixtures included."""
    STARTED.programs.clear()
    return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, so that no worker is left alone with one at the end."""

    def rank(item: pytest.Item) -> int:
        if item.get_closest_marker("vm"):
            return 0
        return 1 if any(item.path.is_relative_to(folder) for folder in LONG) else 2

    items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """Judge a test that skipped itself, or started a process without saying so."""
    report = _no_skip(item, (yield))
    quick = "not process" in item.config.option.markexpr
    if quick and report.passed and STARTED.programs:
        report.outcome = "failed"
        programs, STARTED.programs = STARTED.programs, []
        report.longrepr = (
            f"it starts {', '.join(programs)}: mark it `process`, or have the fixture that does so "
            "ask for the fixture `processes` (docs/testing.md)"
        )
    return report


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
def processes() -> None:
    """Tell that a test, or a fixture, starts processes: docs/testing.md."""


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a state directory once, as its tables take a quarter of a second."""
    directory = tmp_path_factory.mktemp("blank")
    Store(directory).close()
    return directory


@pytest.fixture(scope="session")
def postgresql(processes: None) -> Iterator[PostgreSQL]:
    """Start a server for the first test that asks for it."""
    with serving(PostgreSQL) as server:
        yield server


@pytest.fixture(scope="session")
def cloud_image(processes: None) -> Image:
    """Build the image that virtual machines boot; skip the test where none can run."""
    try:
        virtual_machines.require_programs()
        return image.image()
    except MissingProgram as missing:
        pytest.skip(str(missing))


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    """Return a database: a file, or a PostgreSQL for a module that names both."""
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
def jobs(store: Store) -> Iterator[JobQueue]:
    jobs = JobQueue(store)
    yield jobs
    jobs.close()


@pytest.fixture
def koji(tmp_path: Path) -> Iterator[Koji]:
    koji = Koji(tmp_path / "koji")
    yield koji
    koji.close()
