"""The test instance: an AMI boots, lets its user in, and passes every configured check."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedimg import ssh
from fedimg.aws.attempts import Attempts, NoRoom, Started
from fedimg.config import Check
from fedimg.exceptions import OUTPUT_TAIL, EC2ServiceException, EC2TestException
from fedimg.images import AMI, Architecture, Virtualization
from fedimg.observer import CheckResult

ROLE = "test"


@dataclass(frozen=True)
class Verdict:
    """How a boot check ended: `problem` is empty when the AMI passed."""

    ami: str
    problem: str
    output: str
    checks: list[CheckResult]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the queue."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Verdict:
        """The verdict that `to_json` wrote down."""
        return cls(**{**values, "checks": [CheckResult(**check) for check in values["checks"]]})


@dataclass(frozen=True)
class BootCheck:
    """Boots AMIs of one job in the origin, and checks them."""

    attempts: Attempts
    checks: Sequence[Check]

    def run(self, ami: AMI, architecture: Architecture, *, again: bool) -> Verdict:
        """Boot one AMI and check it; its instance is going afterwards.

        Nobody waits for that: the verdict does not depend on it, and the job's clean-up will. A
        check that a crash interrupted (`again`) is abandoned and made anew. Raises
        EC2TestException when EC2 had no room for the instance: the image was not to blame.
        """
        if again:
            self.attempts.end()
        verdict = self._boot(ami, architecture)
        if not (verdict.problem and self.attempts.settings.keep_failed_instances):
            self.attempts.dismiss()
        return verdict

    def _boot(self, ami: AMI, architecture: Architecture) -> Verdict:
        started = self._start(ami, architecture)
        results: list[CheckResult] = []
        said: list[str] = []
        try:
            with self.attempts.login(started, self.attempts.settings.test_user) as (_, session):
                for check in self.checks:
                    said.append(self._check(session, check, results))
        except ssh.SSHError as error:
            said.append(error.output)
            return self._failed(ami, started, str(error), said, results)
        except EC2ServiceException as error:
            return self._failed(ami, started, error.problem, [error.output], results)
        failed = [result.name for result in results if not result.passed]
        if failed:
            problem = f"failed on the test instance: {', '.join(failed)}"
            return self._failed(ami, started, problem, said, results)
        return Verdict(ami.id, "", "", results)

    def _start(self, ami: AMI, architecture: Architecture) -> Started:
        settings = self.attempts.settings
        hvm = ami.type.virtualization is Virtualization.HVM
        kind = (
            settings.machine(architecture).test_type
            if hvm
            else settings.x86_64.test_type_paravirtual
        )
        for number in range(settings.limits.attempts):
            try:
                return self.attempts.start(ami.id, kind, number)
            except NoRoom as error:
                reason = error
                self.attempts.waiter.pause(settings.limits.wait_maximum)
        raise EC2TestException(f"could not boot {ami.type} AMI {ami.id}: {reason}") from reason

    def _check(self, session: ssh.Session, check: Check, results: list[CheckResult]) -> str:
        started = time.monotonic()
        try:
            finished = session.run(check.command, limit=check.timeout, idle=check.timeout)
        except ssh.SSHError as error:
            results.append(CheckResult(check.name, False, round(time.monotonic() - started, 3)))
            raise ssh.SSHError(f"check {check.name!r}: {error}", error.output) from error
        passed = finished.status == check.status and bool(
            re.search(check.output, finished.output, re.MULTILINE)
        )
        results.append(CheckResult(check.name, passed, round(time.monotonic() - started, 3)))
        return (
            f"$ {check.command}\n{finished.output}{finished.errors}"
            f"[{check.name}: exit status {finished.status}, {'passed' if passed else 'FAILED'}]"
        )

    def _failed(
        self,
        ami: AMI,
        started: Started,
        problem: str,
        said: Sequence[str],
        results: list[CheckResult],
    ) -> Verdict:
        # The console's end and the checks' end both matter; neither may push out the other.
        half = OUTPUT_TAIL // 2
        console, output = self.attempts.console(started), "\n".join(said)
        told = f"{console[-half:]}\n{output[-half:]}".strip()
        return Verdict(ami.id, f"{ami.type} AMI {ami.id}: {problem}", told, results)
