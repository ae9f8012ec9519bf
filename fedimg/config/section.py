"""Define the base of all tables of fedimg.toml."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of fedimg.toml; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
