"""Run the checks of a test instance: each is a command, judged by exit status and output."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from fedimg.aws.instance import scripts
from fedimg.config import Check, Checking, ShippedCheck
from fedimg.images import AMIType, Architecture
from fedimg.progress import CheckResult, CheckState
from fedimg.ssh import client
from fedimg.untrusted import patterns

#: A check with this exit status, as in automake, does not apply to the image, unless the site
#: expects that status.
NOT_APPLICABLE = 77
#: The scripts of fedimg's own checks, which run as root with values on standard input.
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
#: The checks that wait for the end of the boot; their timeout and that of the others, in seconds.
_WAITING = ("units", "cloud-init")
_BOOT_SECONDS = 600.0
_SECONDS = 180.0
#: How many characters of a check's output its result keeps: its beginning and its end.
SHORT = 500
_GAP = " … "


@dataclass(frozen=True)
class Probe:
    """One command for the default user's shell, and its expected result.

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
        """Run the command; return the check's result and its full output.

        Raises BrokenOff when the command did not end.
        """
        started = time.monotonic()
        try:
            finished = session.run(
                self.command, stdin=self.given, limit=self.timeout, idle=self.timeout
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
        # Either may lack its last line end.
        text = "\n".join(filter(None, (finished.output.strip(), finished.errors.strip())))
        summary = f"[{self.name}: exit status {finished.status}, {state}]"
        return result(self.name, state, started, text), f"{text}\n{summary}".strip()


def result(name: str, state: CheckState, started: float, output: str) -> CheckResult:
    """Return the result of a check that started at `started`, by time.monotonic()."""
    seconds = round(time.monotonic() - started, 3)
    return CheckResult(name, state, seconds, shortened(output.strip()))


def shortened(text: str) -> str:
    """Return a text with its middle left out, between words, where it is longer than SHORT."""
    if len(text) <= SHORT:
        return text
    half = (SHORT - len(_GAP)) // 2
    # A word longer than that is split all the same.
    beginning = re.sub(r"\s\S{0,80}\Z", "", text[:half])
    end = re.sub(r"\A\S{0,80}\s", "", text[-half:])
    return f"{beginning}{_GAP}{end}"


class BrokenOff(client.SSHError):
    """A check did not end, and its session is over; `result` is the check as failed."""

    def __init__(
        self, name: str, started: float, problem: str, output: str = "", *, broke: bool = False
    ) -> None:
        super().__init__(f'check "{name}": {problem}', output, broke=broke)
        self.result = result(name, CheckState.FAILED, started, f"{output}\n{problem}")


def probes(
    checks: Sequence[Check], testing: Checking, ami_type: AMIType, architecture: Architecture
) -> list[Probe]:
    """Return the probes for an AMI of this type and architecture: fedimg's own, then the site's."""
    own = [_shipped(name, testing) for name in testing.shipped if name in _SCRIPTS]
    return own + [
        Probe(check.name, check.command, b"", check.status, check.output, check.timeout)
        for check in checks
        if check.applies(ami_type, architecture)
    ]


def early_script(testing: Checking) -> str:
    """Return the script that notes, early in the boot, the files that `pristine` examines."""
    return scripts.text(f"{_FOLDER}/shipped.sh") if "pristine" in testing.shipped else ""


def _shipped(name: ShippedCheck, testing: Checking) -> Probe:
    values: dict[str, list[tuple[str, object]]] = {
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
        scripts.as_root("sh", f"{_FOLDER}/{_SCRIPTS[name]}"),
        scripts.values(values.get(name, [])),
        timeout=_BOOT_SECONDS if name in _WAITING else _SECONDS,
    )
