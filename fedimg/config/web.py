"""Define the settings of the pages and metrics over HTTP."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from fedimg.config.section import Section
from fedimg.config.value_types import DatabaseAddress

_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})")


def _listen_address(text: str) -> str:
    if text:
        split_address(text)
    return text


def split_address(text: str) -> tuple[str, int]:
    """Return the host and port of `HOST:PORT` or `[IPv6]:PORT`. Raises ValueError for others."""
    found = _ADDRESS.fullmatch(text)
    if not found or int(found[3]) > 65535:
        raise ValueError(f'"{text}" is not an address such as 127.0.0.1:8081 or [::1]:8081')
    return found[1] or found[2], int(found[3])


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.-]{1,253}|[A-Fa-f0-9.]*:[A-Fa-f0-9:.]+", text):
        raise ValueError(f'"{text}" is not a host name or address without port and brackets')
    return text.lower()


ListenAddress = Annotated[str, AfterValidator(_listen_address)]
Host = Annotated[str, AfterValidator(_host)]


class Web(Section):
    """The process `fedimg web`: where it listens, and from which database it reads."""

    operations: ListenAddress = Field(
        "127.0.0.1:8081",
        description="Address and port of /jobs, /metrics, /healthz and /readyz, which are for "
        "operators. Empty: not served.",
    )
    catalogue: ListenAddress = Field(
        "127.0.0.1:8080",
        description="Address and port of the catalogue, which is for everybody, if "
        "`catalogue.directory` is set. Empty: not served.",
    )
    hosts: list[Host] = Field(
        ["localhost", "127.0.0.1", "::1"],
        min_length=1,
        description="Host names and addresses, without port, that a request's Host header may "
        "name.",
    )
    database: DatabaseAddress = Field(
        "",
        description="URL of the PostgreSQL with a role that may only read. Empty: `database`.",
    )
