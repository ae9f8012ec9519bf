"""Gather the commands of all modules, and run the one that the command line names."""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
import threading
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fedimg import __version__
from fedimg.cli.app import ConfigOption, JSONOption, loaded, plain_app
from fedimg.process.hardening import hide_memory

#: The modules that define each command, in the order of `fedimg --help`.
MODULES = {
    "worker": ("publishing_commands",),
    "upload": ("publishing_commands",),
    "replay": ("publishing_commands",),
    "status": ("read_only_commands",),
    "amis": ("read_only_commands",),
    "plan": ("read_only_commands",),
    "check": ("read_only_commands",),
    "rehearse": ("rehearse_command",),
    "retry": ("job_commands",),
    "cancel": ("job_commands",),
    "cleanup": ("cleanup_command",),
    "verify": ("verify_command",),
    "withdraw": ("withdraw_commands",),
    "restore": ("withdraw_commands",),
    "accept": ("withdraw_commands",),
    "share": ("share_command",),
    "catalogue": ("catalogue_command",),
    "prune": ("prune_command",),
    "keygen": ("keygen_command",),
    "workers": ("database_commands",),
    "drain": ("database_commands",),
    "hold": ("hold_commands",),
    "release": ("hold_commands",),
    "outbox": ("outbox_command",),
    "web": ("web_command",),
    "store": ("database_commands", "recover_command"),
}


class Commands(TyperGroup):
    """All commands; the modules of one are imported when the command is run or described.

    To import all of them, and have Typer read all options, took a third of a second.
    """

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of all commands."""
        return list(MODULES)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """Return a command, or None if there is none of that name."""
        if cmd_name not in MODULES:
            # Typer looks among the loaded ones for those whose names are like a misspelt one.
            for each in MODULES:
                self.get_command(ctx, each)
            return None
        if cmd_name not in self.commands:
            for module in MODULES[cmd_name]:
                import_module(f"fedimg.cli.{module}")
            self.commands[cmd_name] = typer.main.get_command(loaded[cmd_name])
        return self.commands[cmd_name]


app = plain_app(
    name="fedimg",
    cls=Commands,
    help="Publishes Koji's disk images as AMIs in every EC2 region.",
    epilog="Exit status: 0 done; 1 job failed, check found a problem, or AWS refused; 2 command "
    "line, configuration or database unusable; 3 no such job or worker; 4 job incomplete; 5 "
    "refused in the present state; 6 worker drained; 78 configuration of worker or web unusable; "
    "130 interrupted.",
    no_args_is_help=True,
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"fedimg {__version__}")
        raise typer.Exit


@app.callback()
def _common_options(
    ctx: typer.Context,
    config: ConfigOption = None,
    as_json: JSONOption = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    ctx.obj = (config, as_json)


def main() -> None:
    """Run the command that `sys.argv` names, and exit."""
    hide_memory()
    if "_FEDIMG_COMPLETE" in os.environ:
        # A shell asks what a command line may go on with (packaging/man-pages).
        from typer import completion

        completion.completion_init()  # type: ignore[attr-defined]
    # What a command loads stays. By Python's own threshold of 700 objects it would be looked
    # through for garbage over a hundred times, a tenth of a short command's processor time.
    gc.set_threshold(200_000)
    # Texts from elsewhere may hold characters that the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # No command makes use of pydantic's plugins, which it would look for in all distributions.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        app()
    finally:
        error = sys.exc_info()[1]
        if isinstance(error, SystemExit) and isinstance(error.code, int):
            _leave(error.code)


def _leave(status: int) -> None:
    """End the process without taking all modules apart, a tenth of a short command's time.

    Return where another thread runs or an output cannot be written: Python ends such a process.
    """
    if threading.active_count() > 1:
        return
    with suppress(OSError, ValueError):
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        atexit._run_exitfuncs()
        os._exit(status)
