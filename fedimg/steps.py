"""Named effects of a job, which may be recorded: the protocol, and effects that just happen.

Effects that happen once are in fedimg.jobs.durable_steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from fedimg.parallel import run_parallel

T = TypeVar("T")
Effect = Callable[[], T]


class Steps(Protocol):
    """Runs each effect of a job under a name, in one line or in several side by side.

    Effects return plain JSON values. Names tell what is acted on (`copy:eu-west-1`): a
    restarted job is given each recorded result by its position, and the name is checked.
    """

    def run(self, name: str, effect: Effect[T]) -> T:
        """Return the effect's result, recorded or fresh; its exception is recorded and raised."""

    def fan_out(self, branches: Mapping[str, Branch[T]], at_once: int) -> dict[str, T]:
        """Return every branch's result, by name; at most `at_once` run at a time.

        What a branch raises is raised when all have ended; that one was Cancelled only when
        nothing else went wrong.
        """


@dataclass(frozen=True)
class Branch(Generic[T]):
    """One of several lines of steps side by side.

    `names` are the steps that `body` may take, each once at most and in this order: they are
    drawn before any branch starts, so that a restarted job finds each at the same position.
    """

    names: Sequence[str]
    body: Callable[[Steps], T]


class PlainSteps:
    """Effects that just happen; nothing is remembered."""

    def run(self, name: str, effect: Effect[T]) -> T:
        """Return the effect's result."""
        return effect()

    def fan_out(self, branches: Mapping[str, Branch[T]], at_once: int) -> dict[str, T]:
        """Return every branch's result, by name."""
        return run_parallel(
            {name: partial(branch.body, self) for name, branch in branches.items()}, at_once
        )
