"""Define `fedimg catalogue`: write the files that tell which AMIs are public."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode, command


@command
def catalogue(
    call: Call,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIRECTORY",
            help="Where to write; by default the configuration's catalogue.directory.",
        ),
    ] = None,
) -> ExitCode:
    """Write the catalogue of public AMIs, for any web server.

    The worker writes it by itself where catalogue.directory is set.
    """
    from fedimg.catalogue.errors import CatalogueError
    from fedimg.catalogue.writer import CatalogueWriter
    from fedimg.cli import site_output

    settings = call.settings.catalogue
    root = out or settings.directory
    if not root:
        raise CommandRefused(
            ExitCode.UNUSABLE,
            "it is not known where to write the catalogue: give --out DIRECTORY, or set "
            "catalogue.directory in the configuration",
        )
    try:
        written = CatalogueWriter(
            call.store(),
            root,
            site=call.settings.site,
            base_url=settings.base_url,
            latest=settings.latest,
        ).write()
    except CatalogueError as error:
        raise CommandRefused(ExitCode.UNUSABLE, str(error)) from error
    call.output.answer(site_output.catalogued(written, root))
    return ExitCode.OK
