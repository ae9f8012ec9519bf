"""Tell who runs a command, and ask this person."""

from __future__ import annotations

import getpass
import os
import socket
import sys

import typer

from fedimg.cli.app import CommandRefused, ExitCode


def person() -> str:
    """Return who runs this command, by name and host; sudo's caller rather than its target."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def confirmed(question: str, *, yes: bool) -> bool:
    """Return whether the person agrees; `yes` answers in advance.

    Raises CommandRefused where nobody can be asked.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise CommandRefused(
            ExitCode.NOT_NOW, f"{question} Nobody can be asked here: add --yes to the command"
        )
    return typer.confirm(question, err=True)
