"""Gather the commands of all modules, and run the one that the command line names."""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
import threading
from contextlib import suppress

from fedimg.cli.app import app
from fedimg.process.hardening import hide_memory

# A module registers its commands when it is imported: this is the order of `fedimg --help`.
# isort: off
from fedimg.cli import publishing_commands  # noqa: F401
from fedimg.cli import read_only_commands  # noqa: F401
from fedimg.cli import rehearse_command  # noqa: F401
from fedimg.cli import job_commands  # noqa: F401
from fedimg.cli import cleanup_command  # noqa: F401
from fedimg.cli import verify_command  # noqa: F401
from fedimg.cli import withdraw_commands  # noqa: F401
from fedimg.cli import share_command  # noqa: F401
from fedimg.cli import catalogue_command  # noqa: F401
from fedimg.cli import prune_command  # noqa: F401
from fedimg.cli import keygen_command  # noqa: F401
from fedimg.cli import database_commands  # noqa: F401
from fedimg.cli import recover_command  # noqa: F401
from fedimg.cli import hold_commands  # noqa: F401
from fedimg.cli import outbox_command  # noqa: F401
from fedimg.cli import web_command  # noqa: F401
# isort: on


def main() -> None:
    """Run the command that `sys.argv` names, and exit."""
    hide_memory()
    if "_FEDIMG_COMPLETE" in os.environ:
        # A shell asks what a command line may go on with (packaging/man-pages).
        from typer import completion

        completion.completion_init()  # type: ignore[attr-defined]
    # What a command loads stays. By Python's own threshold of 700 objects it would be looked
    # through for garbage over a hundred times, a tenth of a short command's processor time.
    gc.set_threshold(20_000)
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
