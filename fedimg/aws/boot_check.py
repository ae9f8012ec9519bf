"""The test instance: an AMI boots, lets its user in, and passes every configured check."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedimg import ssh
from fedimg.aws import instances
from fedimg.aws.clients import Client
from fedimg.aws.security_group import Place
from fedimg.aws.tags import Labels
from fedimg.aws.user_data import user_data
from fedimg.aws.waiting import Waiter
from fedimg.config import EC2, Check
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

    ec2: Client
    waiter: Waiter
    labels: Labels
    settings: EC2
    place: Place
    checks: Sequence[Check]

    def run(self, ami: AMI, architecture: Architecture, *, again: bool) -> Verdict:
        """Boot one AMI and check it; its instance is gone afterwards.

        A check that a crash interrupted (`again`) is abandoned and made anew. Raises
        EC2TestException when EC2 had no room for the instance: the image was not to blame.
        """
        role = f"{ROLE}-{ami.type.virtualization}"
        if again:
            self._end(role)
        verdict = self._boot(ami, architecture, role)
        if not (verdict.problem and self.settings.keep_failed_instances):
            self._end(role)
        return verdict

    def _boot(self, ami: AMI, architecture: Architecture, role: str) -> Verdict:
        host, client = ssh.new_identity("fedimg-host"), ssh.new_identity("fedimg-client")
        instance_id = self._launch(
            ami, architecture, role, user_data(host_key=host, client_key=client), host.public
        )
        results: list[CheckResult] = []
        said: list[str] = []
        try:
            instance = instances.running(
                self.ec2,
                self.waiter,
                instance_id,
                self.settings.network,
                limit=self.settings.limits.instance_running,
            )
            with ssh.connect(
                instance.address,
                self.settings.network.ssh_port,
                self.settings.test_user,
                host_key=host,
                client_key=client,
                limit=self.settings.limits.ssh_ready,
                stop=self.waiter.stop,
            ) as session:
                for check in self.checks:
                    said.append(self._check(session, check, results))
        except ssh.SSHError as error:
            told = "\n".join([*said, error.output])
            return self._failed(ami, instance_id, str(error), told, results)
        except EC2ServiceException as error:
            return self._failed(ami, instance_id, error.problem, error.output, results)
        failed = [result.name for result in results if not result.passed]
        if failed:
            problem = f"failed on the test instance: {', '.join(failed)}"
            return self._failed(ami, instance_id, problem, "\n".join(said), results)
        return Verdict(ami.id, "", "", results)

    def _launch(
        self, ami: AMI, architecture: Architecture, role: str, started_with: str, token: str
    ) -> str:
        hvm = ami.type.virtualization is Virtualization.HVM
        machine = self.settings.machine(architecture)
        kind = machine.test_type if hvm else self.settings.x86_64.test_type_paravirtual
        for attempt in range(self.settings.limits.attempts):
            try:
                return instances.launch(
                    self.ec2,
                    self.waiter,
                    self.labels,
                    role,
                    ami=ami.id,
                    kind=kind,
                    user_data=started_with,
                    token=self.labels.token(role, token, str(attempt)),
                    group=self.place.group,
                    subnet=instances.subnet_for(self.ec2, self.place, kind, attempt),
                    network=self.settings.network,
                    volumes=[],
                )
            except Exception as error:
                if not instances.no_room(error):
                    raise
                reason = error
                self.waiter.pause(self.settings.limits.wait_maximum)
        raise EC2TestException(f"EC2 has no room for a {kind} to test on: {reason}") from reason

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
        self, ami: AMI, instance: str, problem: str, output: str, results: list[CheckResult]
    ) -> Verdict:
        console = instances.console(self.ec2, instance)
        # The console's end and the checks' end both matter; neither may push out the other.
        half = OUTPUT_TAIL // 2
        told = f"{console[-half:]}\n{output[-half:]}".strip()
        return Verdict(ami.id, f"{ami.type} AMI {ami.id}: {problem}", told, results)

    def _end(self, role: str) -> None:
        instances.end(
            self.ec2, self.waiter, self.labels, role, limit=self.settings.limits.instance_gone
        )
