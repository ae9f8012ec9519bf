"""Store the queue's inputs, results and errors as JSON, so that reading a row executes nothing.

Importing this module makes DBOS read pickled rows of an earlier fedimg as data, too. Without this
module, DBOS unpickles every row that is marked as pickled, whichever serializer it was given.
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

#: The serializer of every DBOS and DBOSClient. Workers of an earlier fedimg read its rows too.
SERIALIZER: Serializer = DBOSPortableJSONSerializer()


#: Exceptions that earlier versions recorded, by their names then and now.
_RENAMED = {"NoRoom": "NoCapacity"}
#: The module of these exceptions then.
_FORMER_MODULE = "fedimg.aws.attempts"


class RowRefused(Exception):
    """A row of the queue's tables holds something other than data; none of it was executed."""

    def __init__(self, content: str) -> None:
        super().__init__(
            f"refused a row of the queue's tables, which holds {content}; none of it was executed; "
            "fedimg never stores such a row: check who else may write to the database"
        )


def as_json(value: Any) -> Any:
    """Return the value as a restarted workflow will read it from its record.

    Lone surrogates, as of a file name that is not UTF-8, become question marks: no database stores
    them. Raises TypeError when the value is not JSON.
    """
    return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


def original(error: PortableWorkflowError) -> Exception:
    """Return the exception that a step raised, restored from its record."""
    if error.name == Cancelled.__name__:
        return Cancelled()
    name = _RENAMED.get(error.name, error.name)
    error_class = {each.__name__: each for each in _error_classes()}.get(name)
    if error_class is None or not isinstance(error.data, dict):
        return error
    fields = dict(error.data)
    return _restored(error_class, fields.pop("problem", error.message), fields)


def _error_classes() -> Iterator[type[EC2ServiceException]]:
    classes = [EC2ServiceException]
    while classes:
        error_class = classes.pop()
        yield error_class
        classes += error_class.__subclasses__()


def _restored(error_class: object, problem: object, fields: dict[str, Any]) -> EC2ServiceException:
    """Return an exception of a class of fedimg's with its fields.

    Raises RowRefused when the class is unknown or a field is not of its type.
    """
    if error_class not in set(_error_classes()) or not isinstance(problem, str):
        raise RowRefused("an error of an unknown class")
    assert isinstance(error_class, type)
    error: EC2ServiceException = error_class(problem)
    for name, before in vars(error).items():
        value = fields.get(name, before)
        if type(value) is not type(before):
            raise RowRefused(f"an error whose field {name} is not of type {type(before).__name__}")
        setattr(error, name, value)
    return error


class _DataUnpickler(pickle.Unpickler):
    """Reads lists, mappings, texts and numbers, and the exceptions that steps raise."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class or function that a row may name. Raises RowRefused for any other."""
        if (module, name) == (exceptions.__name__, "_again"):
            return _restored
        if (module, name) == (exceptions.__name__, Cancelled.__name__):
            return Cancelled
        for error_class in _error_classes():
            if (module, name) == (error_class.__module__, error_class.__name__):
                return error_class
            if module == _FORMER_MODULE and _RENAMED.get(name) == error_class.__name__:
                return error_class
        built_in = getattr(builtins, name, None) if module == builtins.__name__ else None
        if isinstance(built_in, type) and issubclass(built_in, Exception):
            return built_in
        raise RowRefused(f"{module}.{name}")


def _read(cls: library.DefaultSerializer, serialized_data: str) -> Any:
    try:
        return _DataUnpickler(io.BytesIO(base64.b64decode(serialized_data))).load()
    except RowRefused:
        raise
    except Exception as error:
        raise RowRefused("data that cannot be decoded") from error


library.DefaultSerializer.deserialize = _read  # type: ignore[method-assign]
