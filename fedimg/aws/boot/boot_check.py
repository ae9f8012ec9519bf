"""The test instance: an AMI boots, lets its user in, and passes every configured check."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedimg.aws import amis
from fedimg.aws.boot import reboot
from fedimg.aws.boot.checks import BrokenOff, Probe, probes, result
from fedimg.aws.boot.diagnosis import Evidence, diagnose
from fedimg.aws.instance.attempts import Attempts, NoCapacity, Started
from fedimg.config import LOGIN, Check
from fedimg.exceptions import OUTPUT_TAIL, EC2ServiceException, EC2TestException
from fedimg.images import AMI, Architecture, Virtualization
from fedimg.progress import CheckResult, CheckState
from fedimg.ssh import client
from fedimg.ssh.client import Reached
from fedimg.untrusted.quoting import printable

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
        return {**vars(self), "checks": [check.to_json() for check in self.checks]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Verdict:
        """The verdict that `to_json` wrote down."""
        return cls(
            **{**values, "checks": [CheckResult.from_json(check) for check in values["checks"]]}
        )


class _Untold(Exception):
    """An attempt told nothing of the image; a fresh instance may. `verdict` is what it would be
    otherwise, and is the last word where the image may be at fault after all.
    """

    def __init__(self, reason: str, verdict: Verdict, *, final: bool = False) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.final = final


@dataclass(frozen=True)
class BootCheck:
    """Boots AMIs of one job in the origin, and checks them.

    `on_progress` is told of attempts that are made again, in words.
    """

    attempts: Attempts
    checks: Sequence[Check]
    on_progress: Callable[[str], None] = lambda words: None

    def run(self, ami: AMI, architecture: Architecture, *, again: bool) -> Verdict:
        """Boot one AMI and check it; its instance is going afterwards.

        Nobody waits for that: the verdict does not depend on it, and the job's clean-up will. A
        check that a crash interrupted (`again`) is abandoned and made anew; so is one whose
        instance EC2 took away or did not get to run, and one whose connection broke: only a
        check that itself fails counts against the image. Raises EC2TestException when no attempt
        came to a verdict: the image was not to blame.
        """
        settings = self.attempts.settings
        if again:
            self.attempts.end()
        volumes = self._larger_root(ami)
        kind = self._instance_type(ami, architecture)
        last: _Untold | NoCapacity | None = None
        for number in range(settings.limits.attempts):
            if last:
                self.on_progress(f"attempt {number} failed, retrying with a new instance: {last}")
                self.attempts.waiter.pause(settings.limits.wait_maximum)
            try:
                started = self.attempts.start(ami.id, kind, number, volumes)
            except NoCapacity as error:
                last = error
                continue
            try:
                verdict = self._judged(started, ami, architecture)
            except _Untold as untold:
                self.attempts.dismiss()
                last = untold
                continue
            if not (verdict.problem and settings.keep_failed_instances):
                self.attempts.dismiss()
            return verdict
        if isinstance(last, _Untold) and last.final:
            return last.verdict
        raise EC2TestException(
            f"could not check {ami.type} AMI {ami.id}: {last}",
            output=last.verdict.output if isinstance(last, _Untold) else "",
            later=True,
        )

    def _judged(self, started: Started, ami: AMI, architecture: Architecture) -> Verdict:
        """The verdict of one attempt. Raises _Untold when something else than the image failed."""
        try:
            verdict = self._examine(started, ami, architecture)
        except _Untold as untold:
            verdict, reason, final = untold.verdict, str(untold), untold.final
        else:
            reason, final = "", False
        if verdict.problem and (ended := self.attempts.terminated_reason(started)):
            # Whoever ended it, it was not the image.
            reason, final = f"test instance {started.id} was terminated: {ended}", False
        if reason:
            raise _Untold(reason, verdict, final=final)
        return verdict

    def _examine(self, started: Started, ami: AMI, architecture: Architecture) -> Verdict:
        results: list[CheckResult] = []
        said: list[str] = []
        testing = self.attempts.settings.test
        asked = probes(self.checks, testing, ami.type, architecture)
        try:
            self._ask(started, asked, results, said)
        except client.SSHError as error:
            said.append(error.output)
            foreign = isinstance(error, client.HostKeyMismatch)
            verdict = self._failed(ami, started, self._explained(started, error), said, results)
            if error.broke or foreign:
                # An image whose cloud-init installs no key shows another one every time.
                raise _Untold(verdict.problem, verdict, final=foreign) from error
            return verdict
        except EC2ServiceException as error:
            verdict = self._failed(ami, started, error.problem, [error.output], results)
            # EC2 did not get it to run, or nobody saw it do so.
            raise _Untold(verdict.problem, verdict) from error
        failed = [answer.name for answer in results if not answer.passed]
        if failed:
            problem = f"failed checks on the test instance: {', '.join(failed)}"
            return self._failed(ami, started, problem, said, results)
        return Verdict(ami.id, "", "", results)

    def _ask(
        self,
        started: Started,
        asked: Sequence[Probe],
        results: list[CheckResult],
        said: list[str],
    ) -> None:
        """Log in and run what is asked; `results` and `said` have what came of them, also when it
        ends with SSHError or EC2ServiceException.
        """
        user = self.attempts.settings.test_user
        began = time.monotonic()
        try:
            with self.attempts.login(started, user) as (_, session):
                how = f"as {user}, with an EC2 key pair"
                results.append(result(LOGIN, CheckState.PASSED, began, how))
                for probe in asked:
                    answer, words = probe.run(session)
                    results.append(answer)
                    said.append(words)
                # What fails anyway need not be seen to fail twice.
                sound = all(answer.passed for answer in results)
                if sound and reboot.NAME in self.attempts.settings.test.shipped:
                    results.append(reboot.survived(self.attempts, started, user, session))
        except BrokenOff as error:
            results.append(error.result)
            raise
        except (client.SSHError, EC2ServiceException) as error:
            results.append(result(LOGIN, CheckState.FAILED, began, str(error)))
            raise

    def _instance_type(self, ami: AMI, architecture: Architecture) -> str:
        settings = self.attempts.settings
        hvm = ami.type.virtualization is Virtualization.HVM
        return (
            settings.machine(architecture).test_type
            if hvm
            else settings.x86_64.test_type_paravirtual
        )

    def _explained(self, started: Started, error: client.SSHError) -> str:
        """An SSH error, and why it came to that where nobody could log in."""
        if error.reached is Reached.LOGIN:
            return str(error)
        shown = Evidence(
            self.attempts.console(started), self.attempts.status(started), error.reached
        )
        return f"{diagnose(shown)}; {error}"

    def _larger_root(self, ami: AMI) -> list[dict[str, Any]]:
        """A root volume larger than the image: whether it is grown into cannot be seen on another.

        Larger by a fourth, at least a GiB.
        """
        if "root-size" not in self.attempts.settings.test.shipped:
            return []
        device, gib = self.attempts.waiter.settled(lambda: amis.root(self.attempts.ec2, ami))
        return [{"DeviceName": device, "Ebs": {"VolumeSize": gib + max(1, gib // 4)}}]

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
        # Whoever reads this later may do so on a terminal.
        console = "\n".join(map(printable, self.attempts.console(started).splitlines()))
        output = "\n".join(said)
        told = f"{console[-half:]}\n{output[-half:]}".strip()
        return Verdict(ami.id, f"{ami.type} AMI {ami.id}: {problem}", told, results)
