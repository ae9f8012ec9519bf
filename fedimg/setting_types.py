"""What the values of settings may be, beyond what their Python types say."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from fedimg.images import VOLUME_TYPES, AMIType, Virtualization
from fedimg.untrusted import patterns


def _pattern(text: str) -> str:
    patterns.check(text)
    return text


def _web_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an http or https address")
    if "@" in parts.netloc:
        raise ValueError("holds credentials; Koji is asked anonymously, and this is told in errors")
    return text.rstrip("/")


def _database_address(text: str) -> str:
    if text:
        # Slow to import, and most sites have none.
        from fedimg.store.url import postgresql_url

        postgresql_url(text)
    return text


#: Address version → the shortest prefix that can still be somebody's own: a /8, and an
#: allocation of IPv6.
_WIDEST = {4: 8, 6: 16}


def _source_range(text: str) -> str:
    network = ipaddress.ip_network(text)
    if network.prefixlen < _WIDEST[network.version]:
        raise ValueError("would open the instance to the whole world; name the worker's own range")
    return str(network)


def _checked_type(text: str) -> str:
    if text not in (*map(str, Virtualization), *VOLUME_TYPES):
        AMIType.parse(text)
    return text


def _line(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,2048}", text):
        raise ValueError("holds characters that no address may")
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
DatabaseAddress = Annotated[str, AfterValidator(_database_address)]
#: A web address that is given to an instance, on a line.
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
