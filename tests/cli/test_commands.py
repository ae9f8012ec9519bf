from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from fedimg.cli.app import loaded
from fedimg.cli.commands import MODULES, app
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


def modules_of(*arguments: str, config: Path | None = None) -> set[str]:
    """Run a command; return the modules that it has loaded."""
    script = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
        "from fedimg.cli.commands import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "FEDIMG_CONFIG": str(config)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.split())


@pytest.mark.process
def test_status_loads_no_library_of_the_worker(config: Path, store: Store) -> None:
    modules = modules_of("status", "--json", config=config)
    assert {"sqlalchemy", "fedimg.cli.read_only_commands"} <= modules
    unwanted = {"boto3", "botocore", "fedmsg", "dbos", "sqlalchemy.dialects.postgresql", "rich"}
    assert not (unwanted | {"fedimg.cli.verify_command"}) & modules


@pytest.mark.process
def test_help_loads_neither_settings_nor_database() -> None:
    modules = modules_of("--help")
    assert "fedimg.cli.verify_command" in modules
    assert not {"pydantic", "sqlalchemy", "rich"} & modules


def test_modules_define_the_commands_that_they_are_listed_for() -> None:
    group: Any = typer.main.get_command(app)
    context = typer.Context(group)
    assert all(group.get_command(context, name).name == name for name in MODULES)
    assert set(loaded) == set(MODULES)
    store_commands = group.get_command(context, "store").commands
    assert set(store_commands) == {"migrate", "move", "recover"}


def test_misspelt_command_is_answered_with_the_nearest_one(run: Run) -> None:
    result = run("statsu")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "No such command 'statsu'. Did you mean 'status'?" in result.stderr
