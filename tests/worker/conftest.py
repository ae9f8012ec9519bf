"""The site of the tests that run whole worker processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.site import Site


@pytest.fixture
def site(processes: None, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "state")
    yield site
    site.close()
