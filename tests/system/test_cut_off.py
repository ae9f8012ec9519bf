"""A worker whose way to PostgreSQL is cut, while all others go on."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from tests.postgresql import PostgreSQL
from tests.stopping import slept_until_end
from tests.system.builds import announce_build
from tests.system.deployment import Deployment
from tests.system.line import Line
from tests.system.several import LEASE, alive, all_well, at_work, workers

#: Beside the lease: what a look at the clock and a process's end may take, where PostgreSQL's own
#: processes have to wait for a busy machine. Without a lease, TCP gives up after 15 minutes.
_ENDING_SECONDS = 60


def start_behind(deployment: Deployment, line: Line, name: str) -> None:
    """Start a worker that reaches PostgreSQL by this line alone."""
    config = Path(deployment.environment["FEDIMG_CONFIG"])
    behind = config.with_name(f"{name}.toml")
    behind.write_text(
        re.sub(r"(database = .*127\.0\.0\.1):\d+", rf"\1:{line.port}", config.read_text())
    )
    deployment.environment["FEDIMG_CONFIG"] = str(behind)
    deployment.start_worker(name)
    deployment.environment["FEDIMG_CONFIG"] = str(config)


@pytest.mark.long
def test_worker_that_is_cut_off_ends_and_another_finishes_its_job(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    with (
        closing(Line(postgresql.port)) as line,
        workers(tmp_path / "site", postgresql.blank(), 0) as deployment,
    ):
        start_behind(deployment, line, "one")
        deployment.until(lambda: alive(deployment) or None, "a worker living")
        announce_build(deployment, image={"size_mib": 256, "random_mib": 32})
        assert at_work(deployment) == "one"
        deployment.start_worker("two")
        deployment.until(lambda: len(alive(deployment)) == 2 or None, "both living")
        line.cut()
        slept = slept_until_end(
            deployment.pid("one"), lambda: not deployment.runs("one"), deployment.patience
        )
        assert slept < LEASE + _ENDING_SECONDS
        assert deployment.ends("one") == 1
        assert "has lost its lock in the database" in deployment.log("one")
        assert at_work(deployment) == "two"
        # What it said last arrives while another works on its job.
        line.mend()
        all_well(deployment)
        (left,) = alive(deployment)
        assert deployment.has("two", {left.pid})
