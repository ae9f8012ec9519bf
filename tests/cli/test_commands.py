from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedimg.store.store import Store
from tests.cli.conftest import Run


@pytest.mark.parametrize(
    "arguments", [["status"], ["amis"], ["retry", "x"], ["cancel", "x"], ["cleanup"]]
)
def test_commands_that_only_read_create_no_state_directory(
    config: Path, run: Run, arguments: list[str]
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert f"no database in {config.parent / 'state'} yet" in result.stderr
    assert not (config.parent / "state").exists()


@pytest.mark.process
def test_status_loads_no_library_of_the_worker(config: Path, store: Store) -> None:
    script = "from fedimg.cli.commands import main; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", script, "status", "--json"],
        env={**os.environ, "FEDIMG_CONFIG": str(config)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["[]"]), done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "sqlalchemy" in loaded
    unwanted = {"boto3", "botocore", "fedmsg", "dbos", "sqlalchemy.dialects.postgresql"}
    assert not unwanted & loaded
