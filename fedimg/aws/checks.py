"""What a test instance is asked: each check is a command, whose exit status and output tell."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from fedimg import ssh
from fedimg.config import Check
from fedimg.images import AMIType, Architecture
from fedimg.observer import CheckResult, CheckState

#: A check that ends with this status says that the image has nothing for it, as a test does to
#: automake; unless it is the status that was expected.
NOT_APPLICABLE = 77
#: How much of what a check said goes along with its result, in characters.
SHORT = 500


@dataclass(frozen=True)
class Probe:
    """One command for the default user's shell, and what it has to answer.

    `given` is its standard input, `status` the expected exit status, `output` a regular expression
    for its standard output, `timeout` in seconds.
    """

    name: str
    command: str
    given: bytes = b""
    status: int = 0
    output: str = ""
    timeout: float = 60

    def run(self, session: ssh.Session) -> tuple[CheckResult, str]:
        """How the check went, and all that was said.

        Raises BrokenOff when the command did not come to its end.
        """
        started = time.monotonic()
        try:
            finished = session.run(
                self.command, given=self.given, limit=self.timeout, idle=self.timeout
            )
        except ssh.SSHError as error:
            result = self._result(CheckState.FAILED, started, f"{error}\n{error.output}")
            raise BrokenOff(f"check {self.name!r}: {error}", error.output, result) from error
        matches = re.search(self.output, finished.output, re.MULTILINE)
        if finished.status == self.status and matches:
            state = CheckState.PASSED
        elif finished.status == NOT_APPLICABLE != self.status:
            state = CheckState.SKIPPED
        else:
            state = CheckState.FAILED
        said = f"{finished.output}{finished.errors}".strip()
        told = f"[{self.name}: exit status {finished.status}, {state}]"
        return self._result(state, started, said), f"{said}\n{told}".strip()

    def _result(self, state: CheckState, started: float, said: str) -> CheckResult:
        seconds = round(time.monotonic() - started, 3)
        return CheckResult(self.name, state, seconds, said.strip()[-SHORT:])


class BrokenOff(ssh.SSHError):
    """A check did not come to its end, and its session is over; `result` is what it comes to."""

    def __init__(self, problem: str, output: str, result: CheckResult) -> None:
        super().__init__(problem, output)
        self.result = result


def probes(checks: Sequence[Check], kind: AMIType, architecture: Architecture) -> list[Probe]:
    """What an AMI of this type and architecture is asked."""
    return [
        Probe(check.name, check.command, b"", check.status, check.output, check.timeout)
        for check in checks
        if check.applies(kind, architecture)
    ]
