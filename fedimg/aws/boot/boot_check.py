"""Boot an AMI on a test instance, log in, and run every configured check."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedimg.aws import amis
from fedimg.aws.boot import reboot
from fedimg.aws.boot.checks import BrokenOff, Probe, probes, result
from fedimg.aws.boot.diagnosis import Evidence, diagnose
from fedimg.aws.client.fresh_attempts import first_success
from fedimg.aws.client.types import BlockDeviceMapping
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
    """The result of a boot check: `problem` is empty when the AMI passed."""

    ami: str
    problem: str
    output: str
    checks: list[CheckResult]


class _Inconclusive(Exception):
    """An attempt is inconclusive, and a new instance may give a result.

    `verdict` is what the attempt observed; with `final` it is the result when the last attempt is
    inconclusive, too.
    """

    def __init__(self, reason: str, verdict: Verdict, *, final: bool = False) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.final = final


@dataclass(frozen=True)
class BootCheck:
    """Boots AMIs of one job and checks them.

    `on_progress` is called with a text when an attempt is retried.
    """

    attempts: Attempts
    checks: Sequence[Check]
    on_progress: Callable[[str], None] = lambda text: None

    def run(self, ami: AMI, architecture: Architecture, *, rerun: bool) -> Verdict:
        """Boot one AMI and check it; request termination of its instance.

        The verdict does not wait for the termination; the job's clean-up does. A check that a crash
        interrupted (`rerun`) is repeated on a new instance, and so is one whose instance EC2
        terminated or did not start, and one whose connection broke: only a failed check counts
        against the image. Raises EC2TestException when no attempt was conclusive.
        """
        settings = self.attempts.settings
        if rerun:
            self.attempts.end()
        volumes = self._larger_root(ami)
        instance_type = self._instance_type(ami, architecture)

        def attempt(number: int) -> Verdict:
            started = self.attempts.start(
                ami.id, instance_type, number, volumes, instance_store=ami.type.instance_store
            )
            try:
                verdict = self._attempt_verdict(started, ami, architecture)
            except _Inconclusive:
                self.attempts.dismiss()
                raise
            if not (verdict.problem and settings.keep_failed_instances):
                self.attempts.dismiss()
            return verdict

        try:
            return first_success(
                attempt,
                self.attempts.waiter,
                attempts=settings.limits.attempts,
                pause=settings.limits.wait_maximum,
                new="instance",
                may_pass=lambda failure: isinstance(failure, NoCapacity | _Inconclusive),
                on_progress=self.on_progress,
            )
        except (NoCapacity, _Inconclusive) as last:
            if isinstance(last, _Inconclusive) and last.final:
                return last.verdict
            raise EC2TestException(
                f"could not check {ami.type} AMI {ami.id}: {last}",
                output=last.verdict.output if isinstance(last, _Inconclusive) else "",
                later=True,
            ) from last

    def _attempt_verdict(self, started: Started, ami: AMI, architecture: Architecture) -> Verdict:
        """Return the verdict of one attempt. Raises _Inconclusive when the image did not cause the
        failure.
        """
        try:
            verdict = self._examine(started, ami, architecture)
        except _Inconclusive as inconclusive:
            verdict, reason, final = inconclusive.verdict, str(inconclusive), inconclusive.final
        else:
            reason, final = "", False
        if verdict.problem and (ended := self.attempts.terminated_reason(started)):
            # EC2 or a person terminated it, not the image.
            reason, final = f"test instance {started.id} was terminated: {ended}", False
        if reason:
            raise _Inconclusive(reason, verdict, final=final)
        return verdict

    def _examine(self, started: Started, ami: AMI, architecture: Architecture) -> Verdict:
        results: list[CheckResult] = []
        outputs: list[str] = []
        testing = self.attempts.settings.test
        requested = probes(self.checks, testing, ami.type, architecture)
        try:
            self._login_and_probe(started, requested, results, outputs)
        except client.SSHError as error:
            outputs.append(error.output)
            foreign = isinstance(error, client.HostKeyMismatch)
            verdict = self._failed(ami, started, self._explain(started, error), outputs, results)
            if error.broke or foreign:
                # An image whose cloud-init installs no host key shows another key every time.
                raise _Inconclusive(verdict.problem, verdict, final=foreign) from error
            return verdict
        except EC2ServiceException as error:
            verdict = self._failed(ami, started, error.problem, [error.output], results)
            # EC2 did not start the instance, or did not report it in time.
            raise _Inconclusive(verdict.problem, verdict) from error
        failed = [answer.name for answer in results if not answer.passed]
        if failed:
            problem = f"failed checks on the test instance: {', '.join(failed)}"
            return self._failed(ami, started, problem, outputs, results)
        return Verdict(ami.id, "", "", results)

    def _login_and_probe(
        self,
        started: Started,
        requested: Sequence[Probe],
        results: list[CheckResult],
        outputs: list[str],
    ) -> None:
        """Log in and run the probes.

        `results` and `outputs` get their results and outputs, also when this raises SSHError or
        EC2ServiceException.
        """
        user = self.attempts.settings.test_user
        began = time.monotonic()
        try:
            with self.attempts.login(started, user) as (_, session):
                login = f"as {user}, with an EC2 key pair"
                results.append(result(LOGIN, CheckState.PASSED, began, login))
                for probe in requested:
                    outcome, output = probe.run(session)
                    results.append(outcome)
                    outputs.append(output)
                # After a failed check, the reboot would add no information.
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
        if ami.type.instance_store:
            return settings.instance_store.test_type
        hvm = ami.type.virtualization is Virtualization.HVM
        return (
            settings.machine(architecture).test_type
            if hvm
            else settings.x86_64.test_type_paravirtual
        )

    def _explain(self, started: Started, error: client.SSHError) -> str:
        """Return the text of an SSH error, with a diagnosis when the login failed."""
        if error.reached is Reached.LOGIN:
            return str(error)
        evidence = Evidence(
            self.attempts.console(started), self.attempts.status(started), error.reached
        )
        return f"{diagnose(evidence)}; {error}"

    def _larger_root(self, ami: AMI) -> list[BlockDeviceMapping]:
        """Return the mapping of a root volume a fourth, and at least 1 GiB, larger than the image.

        Only on a larger volume can the check `root-size` see whether the file system grows. There
        is no mapping without that check, or without a root volume.
        """
        if "root-size" not in self.attempts.settings.test.shipped or ami.type.instance_store:
            return []
        device, gib = self.attempts.waiter.settled(lambda: amis.root(self.attempts.ec2, ami))
        return [{"DeviceName": device, "Ebs": {"VolumeSize": gib + max(1, gib // 4)}}]

    def _failed(
        self,
        ami: AMI,
        started: Started,
        problem: str,
        outputs: Sequence[str],
        results: list[CheckResult],
    ) -> Verdict:
        # The ends of the console and of the checks' output both matter.
        half = OUTPUT_TAIL // 2
        # The console may hold control characters, and be printed on a terminal.
        console = "\n".join(map(printable, self.attempts.console(started).splitlines()))
        output = "\n".join(outputs)
        text = f"{console[-half:]}\n{output[-half:]}".strip()
        return Verdict(ami.id, f"{ami.type} AMI {ami.id}: {problem}", text, results)
