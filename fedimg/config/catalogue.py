"""Define the settings of the catalogue: where its files are written, and where they are served."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from fedimg.config.section import Section
from fedimg.config.value_types import OptionalAddress


class Catalogue(Section):
    """Files that tell which AMIs are public, for any web server."""

    directory: Path | Literal[""] = Field(
        "",
        description="Directory into which the worker writes the catalogue, within half a minute of "
        "a change; empty: only `fedimg catalogue` writes one.",
    )
    signing_key: Path | Literal[""] = Field(
        "",
        description="File of the Ed25519 key by which the worker signs a statement of each "
        "publication; `fedimg keygen` makes it. Empty: nothing is signed.",
    )
    latest: list[Literal["build", "compose", "task", "url"]] = Field(
        ["build", "compose"],
        description="Sources of the images that may be the newest of their release: Koji's builds, "
        "composes, scratch tasks, URLs that a person uploaded.",
    )
    base_url: OptionalAddress = Field(
        "",
        description="URL at which the directory is served, for the links of the feed; empty: the "
        "links are relative to the feed.",
    )
