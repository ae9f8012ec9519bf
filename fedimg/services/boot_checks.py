"""Boot AMIs before anything is public: in the origin, and where else the site wants it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from fedimg.aws import amis
from fedimg.aws.boot import boot_check
from fedimg.aws.boot.boot_check import BootCheck, Verdict
from fedimg.aws.boot.checks import early_script
from fedimg.aws.instance.network import JobNetwork
from fedimg.aws.plan import Plan
from fedimg.config import Check
from fedimg.exceptions import Cancelled, EC2ServiceException, EC2TestException
from fedimg.images import AMI, AMIType
from fedimg.services.job_context import JobContext
from fedimg.services.recorded import RecordedSteps
from fedimg.steps import Branch, Steps


class BootChecks:
    """The boot checks of one job, as its plan wants them, with the site's own `checks`.

    The job's `stop` is set when the image has failed: nothing of it will be public then.
    """

    def __init__(self, job: JobContext, plan: Plan, checks: Sequence[Check]) -> None:
        self._job = job
        self._plan = plan
        self._checks = checks
        self._verdicts: dict[AMIType, Future[bool]] = {
            ami_type: Future() for ami_type in plan.tested[plan.origin]
        }

    def branch(
        self, ami_type: AMIType, originals: Sequence[AMI], network: JobNetwork
    ) -> Branch[EC2ServiceException | None]:
        """Return the branch in which the origin's AMI of one type boots and is judged.

        Its result is what went wrong where an image, or EC2, fails PV alone; what fails the whole
        image is raised.
        """
        origin = self._plan.origin
        name = self.step(origin, ami_type)

        def body(steps: Steps) -> EC2ServiceException | None:
            passed = self._verdicts[ami_type]
            try:
                verdict = self._boot(RecordedSteps(steps), name, ami_type, originals, network)
                if verdict.problem and self._decides(ami_type):
                    raise self._failure(verdict, origin, name)
                passed.set_result(not verdict.problem)
            except BaseException as error:
                if isinstance(error, EC2ServiceException) and not self._decides(ami_type):
                    passed.set_result(False)
                    return error
                passed.set_exception(error)
                # Nothing of this image will be public, so the other branches need not go on.
                self._job.stop.set()
                raise
            return None

        return Branch([name], body)

    def tested_before(self) -> None:
        """Let the origin's AMIs pass, since an earlier run tested and published them."""
        for verdict in self._verdicts.values():
            verdict.set_result(True)

    def passed(self) -> set[str]:
        """Wait for the origin's verdicts, and return the boot groups that have passed.

        Raises Cancelled when nothing of the image is to be public.
        """
        try:
            results = {ami_type: passed.result() for ami_type, passed in self._verdicts.items()}
        except Exception as error:
            raise Cancelled("the boot check failed") from error
        failed = {ami_type.boot_group for ami_type, passed in results.items() if not passed}
        return {ami_type.boot_group for ami_type in results} - failed

    def steps(self, region: str) -> list[str]:
        """Return the steps that `passed_in` may take in a further region."""
        tested = self._plan.tested.get(region, ())
        boots = [self.step(region, ami_type) for ami_type in tested]
        return [f"security-group:{region}", *boots] if boots else []

    def passed_in(
        self,
        steps: RecordedSteps,
        region: str,
        registered: Sequence[AMI],
        open_network: Callable[[str], JobNetwork],
    ) -> set[str]:
        """Wait for the verdicts on a further region's AMIs, which boot there where that is wanted.

        `open_network` makes the network for it. Raises EC2TestException when they do not pass, and
        Cancelled as `passed` does.
        """
        passed = self.passed()
        # What was planned before the region answered may turn out not to be possible there.
        possible = {ami.type for ami in registered}
        tested = [
            ami_type
            for ami_type in self._plan.tested.get(region, ())
            if ami_type.boot_group in passed and ami_type in possible
        ]
        if not tested:
            return passed
        network = steps.run(f"security-group:{region}", open_network, region)
        for ami_type in tested:
            name = self.step(region, ami_type)
            verdict = self._boot(steps, name, ami_type, registered, network)
            if verdict.problem and self._decides(ami_type):
                raise self._failure(verdict, region, name)
            if verdict.problem:
                passed.discard(ami_type.boot_group)
        return passed

    def boot_encrypted(
        self, steps: RecordedSteps, registered: Sequence[AMI], network: JobNetwork
    ) -> None:
        """Boot the origin's encrypted AMIs that are to be booted.

        Raises EC2TestException when they do not pass; the plain AMIs do not depend on it.
        """
        try:
            self._boot_encrypted(steps, registered, network)
        except EC2ServiceException as error:
            # EC2 gives an internal error as the reason when it cannot use a key.
            key = self._plan.keys.get(self._plan.origin, "")
            error.problem += (
                f" (the AMI is encrypted with the KMS key {key}: 'fedimg check' looks at it)"
            )
            raise

    def _boot_encrypted(
        self, steps: RecordedSteps, registered: Sequence[AMI], network: JobNetwork
    ) -> None:
        region = self._plan.origin
        possible = {ami.type for ami in registered}
        tested = [each for each in self._plan.tested_encrypted if each in possible]
        if not tested:
            raise EC2ServiceException(
                "none of the encrypted AMIs can be booted", region=region, step="boot-check"
            )
        for ami_type in tested:
            name = self.step(region, ami_type)
            verdict = self._boot(steps, name, ami_type, registered, network)
            if verdict.problem:
                raise self._failure(verdict, region, name)

    def step(self, region: str, ami_type: AMIType) -> str:
        """Return the name of the step in which an AMI of this type is booted in a region."""
        where = "" if region == self._plan.origin else f"{region}:"
        return f"boot-check:{where}{self._label(region, ami_type)}"

    def _label(self, region: str, ami_type: AMIType) -> str:
        """Name a type by its boot group alone where no other AMI of that is booted."""
        if ami_type.encrypted:
            return str(ami_type)
        alike = [
            each for each in self._plan.tested[region] if each.boot_group == ami_type.boot_group
        ]
        return str(ami_type) if len(alike) > 1 else ami_type.boot_group

    def _decides(self, ami_type: AMIType) -> bool:
        """Return whether the image fails with this type: with HVM, wherever that is tested."""
        return ami_type.boot_group == self._plan.tested[self._plan.origin][0].boot_group

    def _boot(
        self,
        steps: RecordedSteps,
        step: str,
        ami_type: AMIType,
        registered: Sequence[AMI],
        network: JobNetwork,
    ) -> Verdict:
        return steps.run(step, self._judge, step, ami_type, registered, network)

    def _judge(
        self, step: str, ami_type: AMIType, registered: Sequence[AMI], network: JobNetwork
    ) -> Verdict:
        """Boot the AMI of a type, tell the observer how that went, and return the verdict."""
        job = self._job
        (ami,) = (ami for ami in registered if ami.type == ami_type)
        role = f"{boot_check.ROLE}-{self._label(ami.region, ami_type)}"
        attempts = job.attempts(ami.region, role, network)
        with job.explained(ami.region, step, EC2TestException):
            alike = [each for each in registered if each.type.boot_group == ami_type.boot_group]
            if job.rerun and amis.offered(attempts.ec2, alike):
                # Nothing is offered that was not tested, so an earlier run has tested these.
                return Verdict(ami.id, "", "", [])
            job.report(ami.region, step)
            job.observer.test_started(ami)
            check = BootCheck(
                replace(attempts, as_users_do=True, early=early_script(attempts.settings.test)),
                self._checks,
                lambda words: job.report(ami.region, step, words),
            )
            try:
                verdict = check.run(ami, job.image.architecture, rerun=job.rerun)
            except EC2ServiceException as error:
                job.observer.test_failed(ami, [], f"{error}\n{error.output}".strip())
                raise
        if verdict.problem:
            job.observer.test_failed(ami, verdict.checks, verdict.output)
        else:
            job.observer.test_completed(ami, verdict.checks)
        return verdict

    def _failure(self, verdict: Verdict, region: str, step: str) -> EC2TestException:
        return EC2TestException(
            verdict.problem,
            image=self._job.image.name,
            region=region,
            step=step,
            output=verdict.output,
        )
