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
def test_status_loads_neither_boto3_nor_fedmsg(config: Path, store: Store) -> None:
    script = (
        "import sys; from fedimg.cli.commands import main\n"
        "sys.argv = ['fedimg', 'status', '--json']\n"
        "try: main()\n"
        "finally: print(*(m for m in ('boto3', 'botocore', 'fedmsg') if m in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "FEDIMG_CONFIG": str(config)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["[]"]), done.stderr
