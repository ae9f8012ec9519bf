"""Durable steps: effects of a DBOS workflow, recorded, so that a killed worker repeats none."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, TypeVar

from dbos import DBOS, PortableWorkflowError

from fedimg.exceptions import Cancelled, exhausted
from fedimg.jobs.serialization import as_json, original
from fedimg.parallel import run_parallel
from fedimg.steps import Branch, Effect

T = TypeVar("T")


class Gate:
    """Between durable steps: once closed nothing begins, and what is under way may come to its end.

    Args:
        exhausted: told of an effect that failed as this process has run out of memory, files or
            threads. That is no failure of the job's, so it is not recorded.
    """

    def __init__(self, exhausted: Callable[[BaseException], object]) -> None:
        self._exhausted = exhausted
        self._news = threading.Condition()
        self._under_way = 0
        self._closed = False

    def close(self) -> None:
        """Let nothing begin any more, for as long as the process lives."""
        with self._news:
            self._closed = True

    def quiet(self, seconds: float) -> bool:
        """Whether nothing is under way, waited for until `seconds` have passed."""
        with self._news:
            return self._news.wait_for(lambda: not self._under_way, seconds)

    def record(self, step: Callable[[Effect[T]], T], effect: Effect[T]) -> T:
        """What `step`, which runs the effect and records its result, returns."""
        if not self._enter():
            _wait_for_the_end()
        try:
            return step(lambda: self._watched(effect))
        except PortableWorkflowError as error:
            raise original(error) from None
        finally:
            self._leave()

    def _watched(self, effect: Effect[T]) -> T:
        try:
            result: T = as_json(effect())
            return result
        except Cancelled:
            if not self._closed:
                raise
        except Exception as error:
            if not exhausted(error):
                raise
            self._exhausted(error)
        # To return would be to record what was only broken off.
        self._leave()
        return _wait_for_the_end()

    def _enter(self) -> bool:
        with self._news:
            if self._closed:
                return False
            self._under_way += 1
            return True

    def _leave(self) -> None:
        with self._news:
            self._under_way -= 1
            self._news.notify_all()


class DurableSteps:
    """Effects of a DBOS workflow: a restarted workflow goes on behind the last recorded one."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def run(self, name: str, effect: Effect[T]) -> T:
        """The effect's result, recorded or fresh."""
        result: T = self._gate.record(partial(DBOS.run_step, {"name": name}), effect)
        return result

    def fan_out(self, branches: Mapping[str, Branch[T]], at_once: int) -> dict[str, T]:
        """Every branch's result, by name."""
        # Drawn here, in the workflow's own thread and in order: steps taken in bare threads
        # are not recorded, and would get other places at each restart.
        bodies: dict[str, Callable[[], T]] = {}
        for name, branch in branches.items():
            places = {step: DBOS.reserve_step() for step in branch.names}
            steps = _ReservedSteps(self._gate, places)
            bodies[name] = partial(contextvars.copy_context().run, branch.body, steps)
        return run_parallel(bodies, at_once)


class _ReservedSteps:
    def __init__(self, gate: Gate, places: dict[str, Any]) -> None:
        self._gate = gate
        self._places = places

    def run(self, name: str, effect: Effect[T]) -> T:
        result: T = self._gate.record(partial(self._places[name].run, {"name": name}), effect)
        return result

    def fan_out(self, branches: Mapping[str, Branch[T]], at_once: int) -> dict[str, T]:
        raise NotImplementedError("a branch of steps has no branches of its own")


def _wait_for_the_end() -> NoReturn:
    """Let the thread stand still until the process ends."""
    while True:
        threading.Event().wait()
