"""Values as JSON records: the queue and the database hold them, and their type reads them again."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


@cache
def adapter(of: Any) -> TypeAdapter[Any]:
    """Return what writes and reads values of a type; made once, as that takes milliseconds."""
    return TypeAdapter(of)


def as_record(value: object) -> Any:
    """Return a dataclass as plain JSON values."""
    of: Any = type(value)
    return adapter(of).dump_python(value, mode="json")


def from_record(of: type[T], record: object) -> T:
    """Return the value of a type that a record holds; raises ValueError when it does not fit."""
    kind: Any = of
    value: T = adapter(kind).validate_python(record)
    return value
