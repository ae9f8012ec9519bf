"""Define `fedimg keygen`: make, or replace, the key that signs the catalogue's statements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode, command


@command
def keygen(
    call: Call,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="File of the key; by default the configuration's catalogue.signing_key.",
        ),
    ] = None,
    rotate: Annotated[
        bool,
        typer.Option(
            "--rotate",
            help="Replace the key of the file; its public half stays published.",
        ),
    ] = False,
) -> ExitCode:
    """Make the key that signs the catalogue's statements.

    A file that exists stays as it is. Run it as the worker's user, which alone reads the file.
    """
    from fedimg.catalogue import signing_key
    from fedimg.catalogue.errors import CatalogueError
    from fedimg.cli import site_output

    path = file or call.settings.catalogue.signing_key
    if not path:
        raise CommandRefused(
            ExitCode.UNUSABLE,
            "it is not known where the key is to be: give FILE, or set catalogue.signing_key in "
            "the configuration",
        )
    try:
        old, new = signing_key.rotate(path) if rotate else (None, signing_key.generate(path))
    except CatalogueError as error:
        raise CommandRefused(ExitCode.UNUSABLE, str(error)) from error
    call.output.answer(site_output.key_made(path, new, old))
    return ExitCode.OK
