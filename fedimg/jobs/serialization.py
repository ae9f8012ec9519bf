"""How the queue stores inputs, results and errors: as JSON, so that a row is data and runs nothing.

Importing this module has the queue's library read pickled rows of an earlier fedimg as data, too.
By itself the library unpickles whatever a row calls pickled, whichever serializer it was given.
"""

from __future__ import annotations

import base64
import builtins
import io
import json
import pickle
from collections.abc import Iterator
from typing import Any

from dbos import DBOSPortableJSONSerializer, PortableWorkflowError, Serializer
from dbos import _serialization as library

from fedimg import exceptions
from fedimg.exceptions import Cancelled, EC2ServiceException

#: For every DBOS and DBOSClient. Workers of an earlier fedimg read it too.
SERIALIZER: Serializer = DBOSPortableJSONSerializer()


class RowRefused(Exception):
    """A row of the queue's tables holds what is no data; nothing of it was run."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"refused a row of the queue's tables, which holds {what}; none of it was executed; "
            "fedimg never stores such a row: check who else may write to the database"
        )


def as_json(value: Any) -> Any:
    """The value as it will be read from its record, so that a first run and a restart see the same.

    Half a character, as of a file name that is no text, becomes a question mark: no database stores
    it. Raises TypeError when it is no JSON.
    """
    return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


def original(error: PortableWorkflowError) -> Exception:
    """The exception that a step raised, made again from its record."""
    if error.name == Cancelled.__name__:
        return Cancelled()
    kind = {each.__name__: each for each in _kinds()}.get(error.name)
    if kind is None or not isinstance(error.data, dict):
        return error
    fields = dict(error.data)
    return _restored(kind, fields.pop("problem", error.message), fields)


def _kinds() -> Iterator[type[EC2ServiceException]]:
    kinds = [EC2ServiceException]
    while kinds:
        kind = kinds.pop()
        yield kind
        kinds += kind.__subclasses__()


def _restored(kind: object, problem: object, fields: dict[str, Any]) -> EC2ServiceException:
    """An exception of fedimg's own with its fields, each of them of the type that it has to be."""
    if kind not in set(_kinds()) or not isinstance(problem, str):
        raise RowRefused("an error of an unknown class")
    assert isinstance(kind, type)
    error: EC2ServiceException = kind(problem)
    for name, before in vars(error).items():
        value = fields.get(name, before)
        if type(value) is not type(before):
            raise RowRefused(f"an error whose field {name} is not of type {type(before).__name__}")
        setattr(error, name, value)
    return error


class _Plain(pickle.Unpickler):
    """Reads lists, mappings, texts and numbers, and the exceptions that steps raise."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function that a row may name."""
        if (module, name) == (exceptions.__name__, "_again"):
            return _restored
        if (module, name) == (exceptions.__name__, Cancelled.__name__):
            return Cancelled
        for kind in _kinds():
            if (module, name) == (kind.__module__, kind.__name__):
                return kind
        built_in = getattr(builtins, name, None) if module == builtins.__name__ else None
        if isinstance(built_in, type) and issubclass(built_in, Exception):
            return built_in
        raise RowRefused(f"{module}.{name}")


def _read(cls: library.DefaultSerializer, serialized_data: str) -> Any:
    try:
        return _Plain(io.BytesIO(base64.b64decode(serialized_data))).load()
    except RowRefused:
        raise
    except Exception as error:
        raise RowRefused("data that cannot be decoded") from error


library.DefaultSerializer.deserialize = _read  # type: ignore[method-assign]
