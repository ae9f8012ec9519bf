"""Steps that return values: each is recorded as JSON, and made again from it by its type."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, get_type_hints

from fedimg.records import adapter
from fedimg.steps import Steps

P = ParamSpec("P")
T = TypeVar("T")


class RecordedSteps:
    """Runs an action under a name, and returns its value, fresh or from an earlier run's record.

    The return type that the action declares says how its value becomes JSON and is read again.
    Raises what the action raises, and pydantic's ValidationError where a record does not fit it.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def run(self, name: str, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `action` returns for these arguments."""
        result = adapter(get_type_hints(action)["return"])

        def effect() -> Any:
            return result.dump_python(action(*args, **kwargs), mode="json")

        value: T = result.validate_python(self._steps.run(name, effect))
        return value


class _HasSteps(Protocol):
    @property
    def steps(self) -> RecordedSteps:
        """Run the steps of this object."""


S = TypeVar("S", bound=_HasSteps)
Method = Callable[Concatenate[S, P], T]


def recorded(name: str) -> Callable[[Method[S, P, T]], Method[S, P, T]]:
    """Make a method the step `name`: what it returns is recorded, and read again after a restart.

    The object runs it by its attribute `steps`.
    """

    def decorate(method: Method[S, P, T]) -> Method[S, P, T]:
        @wraps(method)
        def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            bound: Callable[P, T] = MethodType(method, self)
            return self.steps.run(name, bound, *args, **kwargs)

        return run

    return decorate
