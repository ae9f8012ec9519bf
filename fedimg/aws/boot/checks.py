"""What a test instance is asked: each check is a command, whose exit status and output tell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from fedimg.aws.instance import scripts
from fedimg.config import Check, Checking, ShippedCheck
from fedimg.images import AMIType, Architecture
from fedimg.progress import CheckResult, CheckState
from fedimg.ssh import client
from fedimg.untrusted import patterns

#: A check that ends with this status says that the image has nothing for it, as a test does to
#: automake; unless it is the status that was expected.
NOT_APPLICABLE = 77
#: fedimg's own checks that are a script: run as root, with values on standard input.
_SCRIPTS: dict[ShippedCheck, str] = {
    "units": "units.sh",
    "cloud-init": "cloud_init.sh",
    "root-size": "root_size.sh",
    "pristine": "pristine.sh",
    "network": "network.sh",
    "clock": "clock.sh",
    "selinux": "selinux.sh",
}
_FOLDER = "boot/check_scripts"
#: Those that wait for the end of the boot, and how long that and the others may take, in seconds.
_WAITING = ("units", "cloud-init")
_BOOT_SECONDS = 600.0
_SECONDS = 180.0
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

    def run(self, session: client.Session) -> tuple[CheckResult, str]:
        """How the check went, and all that was said.

        Raises BrokenOff when the command did not come to its end.
        """
        started = time.monotonic()
        try:
            finished = session.run(
                self.command, given=self.given, limit=self.timeout, idle=self.timeout
            )
        except client.SSHError as error:
            raise BrokenOff(
                self.name, started, str(error), error.output, broke=error.broke
            ) from error
        matches = patterns.matches(self.output, finished.output)
        if finished.status == self.status and matches:
            state = CheckState.PASSED
        elif finished.status == NOT_APPLICABLE != self.status:
            state = CheckState.SKIPPED
        else:
            state = CheckState.FAILED
        said = f"{finished.output}{finished.errors}".strip()
        told = f"[{self.name}: exit status {finished.status}, {state}]"
        return result(self.name, state, started, said), f"{said}\n{told}".strip()


def result(name: str, state: CheckState, started: float, said: str) -> CheckResult:
    """How a check went that started then, by time.monotonic()."""
    seconds = round(time.monotonic() - started, 3)
    return CheckResult(name, state, seconds, said.strip()[-SHORT:])


class BrokenOff(client.SSHError):
    """A check did not come to its end, and its session is over; `result` is what it comes to."""

    def __init__(
        self, name: str, started: float, problem: str, output: str = "", *, broke: bool = False
    ) -> None:
        super().__init__(f'check "{name}": {problem}', output, broke=broke)
        self.result = result(name, CheckState.FAILED, started, f"{output}\n{problem}")


def probes(
    checks: Sequence[Check], testing: Checking, kind: AMIType, architecture: Architecture
) -> list[Probe]:
    """What an AMI of this type and architecture is asked: fedimg's own checks, then the site's."""
    own = [_shipped(name, testing) for name in testing.shipped if name in _SCRIPTS]
    return own + [
        Probe(check.name, check.command, b"", check.status, check.output, check.timeout)
        for check in checks
        if check.applies(kind, architecture)
    ]


def looks_early(testing: Checking) -> str:
    """The script that a test instance runs early, so that `pristine` finds what it noted."""
    return scripts.text(f"{_FOLDER}/shipped.sh") if "pristine" in testing.shipped else ""


def _shipped(name: ShippedCheck, testing: Checking) -> Probe:
    given: dict[str, list[tuple[str, object]]] = {
        "network": [
            *(("resolve", host) for host in testing.resolve),
            *(("reach", url) for url in testing.reach),
        ],
        "clock": [
            *([("date", testing.clock)] if testing.clock else []),
            ("tolerance", testing.clock_seconds),
        ],
    }
    return Probe(
        name,
        scripts.as_root(f"{_FOLDER}/{_SCRIPTS[name]}", "sh"),
        scripts.values(given.get(name, [])),
        timeout=_BOOT_SECONDS if name in _WAITING else _SECONDS,
    )
