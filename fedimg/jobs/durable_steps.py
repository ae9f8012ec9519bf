"""Run effects as durable steps of a DBOS workflow: a restarted worker repeats no recorded one."""

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
    """Lets durable steps begin until it is closed; steps that have begun may end afterwards.

    Args:
        exhausted: called with the error of an effect that failed because this process has run out
            of memory, files or threads. The error is not recorded, as the job did not fail.
    """

    def __init__(self, exhausted: Callable[[BaseException], object]) -> None:
        self._exhausted = exhausted
        self._changed = threading.Condition()
        self._running = 0
        self._closed = False

    def close(self) -> None:
        """Let no further step begin, for as long as the process lives."""
        with self._changed:
            self._closed = True

    def quiet(self, seconds: float) -> bool:
        """Wait at most `seconds` until no step is running; return whether none is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, seconds)

    def record(self, step: Callable[[Effect[T]], T], effect: Effect[T]) -> T:
        """Return the result of `step`, which runs the effect and records its result.

        Raises the effect's own error, fresh or recorded. Once the gate is closed, never returns.
        """
        if not self._enter():
            block_until_exit()
        try:
            return step(lambda: self._run(effect))
        except PortableWorkflowError as error:
            raise original(error) from None
        finally:
            self._leave()

    def _run(self, effect: Effect[T]) -> T:
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
        # DBOS would record what is returned or raised here, and the effect was only interrupted.
        self._leave()
        return block_until_exit()

    def _enter(self) -> bool:
        with self._changed:
            if self._closed:
                return False
            self._running += 1
            return True

    def _leave(self) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()


class DurableSteps:
    """The steps of a DBOS workflow: a restarted workflow continues after the last recorded step."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def run(self, name: str, effect: Effect[T]) -> T:
        """Return the effect's recorded result; run the effect when none is recorded."""
        result: T = self._gate.record(partial(DBOS.run_step, {"name": name}), effect)
        return result

    def fan_out(self, branches: Mapping[str, Branch[T]], at_once: int) -> dict[str, T]:
        """Run the branches in threads, `at_once` at a time; return their results by name."""
        # The workflow's own thread reserves the steps, in order: DBOS does not record steps that
        # other threads begin, and their numbers would differ after each restart.
        bodies: dict[str, Callable[[], T]] = {}
        for name, branch in branches.items():
            reserved = {step: DBOS.reserve_step() for step in branch.names}
            steps = _ReservedSteps(self._gate, reserved)
            bodies[name] = partial(contextvars.copy_context().run, branch.body, steps)
        return run_parallel(bodies, at_once)


class _ReservedSteps:
    def __init__(self, gate: Gate, reserved: dict[str, Any]) -> None:
        self._gate = gate
        self._reserved = reserved

    def run(self, name: str, effect: Effect[T]) -> T:
        result: T = self._gate.record(partial(self._reserved[name].run, {"name": name}), effect)
        return result

    def fan_out(self, branches: Mapping[str, Branch[T]], at_once: int) -> dict[str, T]:
        raise NotImplementedError("a branch of steps has no branches of its own")


def block_until_exit() -> NoReturn:
    """Block the thread until the process ends."""
    while True:
        threading.Event().wait()
