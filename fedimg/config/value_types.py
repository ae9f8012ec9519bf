"""Validate the values of settings beyond their Python types."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from fedimg.images import TYPE_PARTS, AMIType
from fedimg.untrusted import patterns


def _pattern(text: str) -> str:
    patterns.refuse_unmatchable(text)
    return text


def _web_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an http or https address")
    if "@" in parts.netloc:
        raise ValueError(
            "contains credentials: remove them, because fedimg reads anonymously and quotes the "
            "address in errors"
        )
    return text.rstrip("/")


def _database_address(text: str) -> str:
    if text:
        # Slow to import, and most sites have none.
        from fedimg.store.url import postgresql_url

        postgresql_url(text)
    return text


#: IP version → the shortest prefix that one organization can own: an IPv4 /8, and a large
#: allocation of IPv6.
_SHORTEST_PREFIX = {4: 8, 6: 16}


def _source_range(text: str) -> str:
    network = ipaddress.ip_network(text)
    if network.prefixlen < _SHORTEST_PREFIX[network.version]:
        raise ValueError(
            "would open the instances' SSH port to most of the internet; name the worker's own "
            "address range"
        )
    return str(network)


def _checked_type(text: str) -> str:
    if text not in TYPE_PARTS:
        AMIType.parse(text)
    return text


def _line(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,2048}", text):
        raise ValueError(
            "contains characters that a web address must not, or has over 2048 of them"
        )
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
DatabaseAddress = Annotated[str, AfterValidator(_database_address)]
#: A web address that an instance reads as one line.
GivenAddress = Annotated[str, AfterValidator(_line), AfterValidator(_web_address)]
OptionalAddress = Annotated[
    str, AfterValidator(lambda text: _web_address(_line(text)) if text else "")
]
SourceRange = Annotated[str, AfterValidator(_source_range)]
CheckedType = Annotated[str, AfterValidator(_checked_type)]
AMITypeName = Annotated[
    AMIType,
    BeforeValidator(lambda value: AMIType.parse(value) if isinstance(value, str) else value),
]
