from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from fedimg.cli.commands import app
from fedimg.process.systemd import MISCONFIGURED
from fedimg.store.store import Store
from tests.aws.web import serve
from tests.cli.conftest import X86_URL, Run


@pytest.mark.parametrize(
    "order",
    [
        ["--config", "{}", "--json", "amis"],
        ["amis", "--json", "--config", "{}"],
        ["--json", "amis", "--config", "{}"],
        ["--config", "/nowhere.toml", "amis", "--json", "--config", "{}"],
    ],
)
def test_config_and_json_are_taken_on_both_sides_of_the_name(
    config: Path, store: Store, order: list[str]
) -> None:
    result = CliRunner().invoke(app, [part.format(config) for part in order])
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])


def test_the_environment_names_the_configuration(
    config: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDIMG_CONFIG", str(config))
    assert CliRunner().invoke(app, ["amis"]).exit_code == 0


@pytest.mark.parametrize("command", ["worker", "web", "status", "amis", "check", "cleanup"])
def test_a_misspelt_key_is_named_with_the_nearest_known_one(
    config: Path, run: Run, command: str
) -> None:
    config.write_text('state_directorie = "state"\n')
    result = run(command, "--json")
    # systemd runs the worker, and does not start it again for this.
    assert result.exit_code == (MISCONFIGURED if command in ("worker", "web") else 2)
    assert "unknown key state_directorie; did you mean state_directory?" in result.stderr
    assert str(config) in json.loads(result.stdout)["error"]
    assert "Traceback" not in result.output


def test_version_option_prints_the_version(run: Run) -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"fedimg {version('fedimg')}\n")


def commands(group: Any = None, before: str = "") -> Iterator[tuple[str, Any]]:
    """Return each command's name, with that of its group before it, and the command."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        elif not command.hidden:
            yield f"{before}{name}", command


def test_list_of_commands_tells_each_in_a_whole_sentence(run: Run) -> None:
    for group in ([], ["store"]):
        listed = run(*group, "--help").stdout.partition("Commands:\n")[2].partition("\n\n")[0]
        for line in listed.splitlines():
            assert line.endswith("."), line
            assert not line.endswith("..."), line


def test_help_names_the_value_of_each_option_and_no_type_of_python(run: Run) -> None:
    for name, _ in commands():
        _, _, options = run(*name.split(), "--help").stdout.partition("\nOptions:\n")
        assert "<" not in options, name


def test_readme_has_a_row_for_each_command() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    missing = [
        name
        for name, _ in commands()
        if f"`fedimg {name}" not in readme and f"`{name}`" not in readme
    ]
    assert missing == []


@pytest.mark.parametrize(
    "arguments", [["amis", "--colour"], ["upload"], ["uplaod", X86_URL], ["plan", "ftp://x/y"]]
)
def test_invalid_command_line_exits_with_2(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


def test_unusable_state_directory_exits_with_2(config: Path, run: Run) -> None:
    (config.parent / "state").write_text("a file")
    result = run("upload", X86_URL)
    assert result.exit_code == 2
    assert "cannot use the database" in result.stderr


@pytest.mark.process
def test_interrupted_command_exits_with_130(config: Path, store: Store, x86_job: str) -> None:
    program = Path(sys.executable).parent / "fedimg"
    # A process that a shell runs in the background ignores SIGINT, and so do its children.
    process = subprocess.Popen(
        ["env", "--default-signal=INT", program, "status", "--watch"],
        env={**os.environ, "FEDIMG_CONFIG": str(config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert x86_job in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate()
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.usefixtures("aws")
def test_aws_that_does_not_answer_is_a_plain_error(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
    result = run("plan", X86_URL, "--json")
    assert result.exit_code == 1
    assert "credentials" in json.loads(result.stdout)["error"]
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("aws", "store")
def test_answer_of_another_server_than_aws_is_a_plain_error(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as web:
        monkeypatch.setenv("AWS_ENDPOINT_URL", web.address)
        result = run("cleanup", "--json")
    assert result.exit_code == 1
    assert "'fedimg check'" in json.loads(result.stdout)["error"]
    assert "Traceback" not in result.stderr
