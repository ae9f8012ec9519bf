"""Which AMIs boot before anything is public: in the origin, and where else the site wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from fedimg.aws import amis
from fedimg.aws.boot import boot_check
from fedimg.aws.boot.boot_check import BootCheck, Verdict
from fedimg.aws.boot.checks import early_script
from fedimg.aws.client.errors import explained
from fedimg.aws.instance.attempts import Attempts
from fedimg.aws.instance.network import JobNetwork
from fedimg.aws.plan import Plan
from fedimg.config import Check
from fedimg.exceptions import Cancelled, EC2ServiceException, EC2TestException
from fedimg.images import AMI, AMIType, RawImage, Virtualization
from fedimg.progress import Observer
from fedimg.steps import Branch, Steps

#: The attempts of a role in a region, at a place there.
AttemptsIn = Callable[[str, str, JobNetwork], Attempts]


@dataclass(frozen=True)
class BootChecks:
    """The boot checks of one job.

    `progress` is told which step a region is at, and what of it. `stop` is set when the image has
    failed: nothing of it will be public then. `again` says that an earlier try may have passed
    already.
    """

    image: RawImage
    plan: Plan
    checks: Sequence[Check]
    observer: Observer
    progress: Callable[..., None]
    attempts: AttemptsIn
    stop: threading.Event
    again: bool
    _verdicts: dict[AMIType, Future[bool]] = field(init=False)

    def __post_init__(self) -> None:
        futures: dict[AMIType, Future[bool]] = {
            kind: Future() for kind in self.plan.tested[self.plan.origin]
        }
        object.__setattr__(self, "_verdicts", futures)

    def branch(
        self, kind: AMIType, originals: Sequence[AMI], place: JobNetwork
    ) -> Branch[EC2ServiceException | None]:
        """The origin's AMI of one type boots and passes; or what went wrong, other than with it.

        An image, or EC2, may fail PV alone.
        """
        origin = self.plan.origin
        name = self.step(origin, kind)

        def body(steps: Steps) -> EC2ServiceException | None:
            verdict = self._verdicts[kind]
            try:
                judged = self._judged(steps, name, kind, originals, place)
                if judged.problem and self._decides(kind):
                    raise self._failure(judged, origin, name)
                verdict.set_result(not judged.problem)
            except BaseException as error:
                if isinstance(error, EC2ServiceException) and not self._decides(kind):
                    verdict.set_result(False)
                    return error
                verdict.set_exception(error)
                # Nothing of this image will be public, so the other lines need not go on.
                self.stop.set()
                raise
            return None

        return Branch([name], body)

    def passed(self) -> set[Virtualization]:
        """What the origin's AMIs have passed as, once that is known.

        Raises Cancelled when nothing of the image is to be public.
        """
        try:
            results = {kind: verdict.result() for kind, verdict in self._verdicts.items()}
        except Exception as error:
            raise Cancelled("the boot check failed") from error
        failed = {kind.virtualization for kind, passed in results.items() if not passed}
        return {kind.virtualization for kind in results} - failed

    def steps(self, region: str) -> list[str]:
        """The steps that `passed_in` may take in a further region."""
        kinds = self.plan.tested.get(region, ())
        return [f"security-group:{region}"] * bool(kinds) + [self.step(region, k) for k in kinds]

    def passed_in(
        self, steps: Steps, region: str, made: Sequence[AMI], prepare: Callable[[], dict[str, Any]]
    ) -> set[Virtualization]:
        """What a further region's own AMIs have passed as, those booted there where that is wanted.

        `prepare` makes the place for it. Raises EC2TestException when they do not pass, and
        Cancelled as `passed` does.
        """
        passed = self.passed()
        # What was planned before the region answered may turn out not to be possible there.
        possible = {ami.type for ami in made}
        kinds = [
            kind
            for kind in self.plan.tested.get(region, ())
            if kind.virtualization in passed and kind in possible
        ]
        if not kinds:
            return passed
        place = JobNetwork(**steps.run(f"security-group:{region}", prepare))
        for kind in kinds:
            name = self.step(region, kind)
            judged = self._judged(steps, name, kind, made, place)
            if judged.problem and self._decides(kind):
                raise self._failure(judged, region, name)
            if judged.problem:
                passed.discard(kind.virtualization)
        return passed

    def step(self, region: str, kind: AMIType) -> str:
        """The name of the step in which an AMI of this type is booted there."""
        where = "" if region == self.plan.origin else f"{region}:"
        return f"boot-check:{where}{self._label(region, kind)}"

    def _label(self, region: str, kind: AMIType) -> str:
        """Its virtualization type alone where no other AMI of that is booted."""
        of_its_kind = [
            each for each in self.plan.tested[region] if each.virtualization is kind.virtualization
        ]
        return str(kind) if len(of_its_kind) > 1 else str(kind.virtualization)

    def _decides(self, kind: AMIType) -> bool:
        # The first is HVM wherever there is one.
        return kind.virtualization is self.plan.tested[self.plan.origin][0].virtualization

    def _judged(
        self, steps: Steps, step: str, kind: AMIType, made: Sequence[AMI], place: JobNetwork
    ) -> Verdict:
        return Verdict.from_json(steps.run(step, lambda: self._boot(step, kind, made, place)))

    def _boot(
        self, step: str, kind: AMIType, made: Sequence[AMI], place: JobNetwork
    ) -> dict[str, Any]:
        (ami,) = (ami for ami in made if ami.type == kind)
        role = f"{boot_check.ROLE}-{self._label(ami.region, kind)}"
        attempts = self.attempts(ami.region, role, place)
        with explained(
            step, image=self.image.name, region=ami.region, step=step, kind=EC2TestException
        ):
            alike = [each for each in made if each.type.virtualization is kind.virtualization]
            if self.again and amis.public(attempts.ec2, alike):
                # Nothing is public that was not tested, so an earlier run has tested these.
                return Verdict(ami.id, "", "", []).to_json()
            self.progress(ami.region, step)
            self.observer.test_started(ami)
            check = BootCheck(
                replace(attempts, as_users_do=True, early=early_script(attempts.settings.test)),
                self.checks,
                lambda words: self.progress(ami.region, step, words),
            )
            try:
                verdict = check.run(ami, self.image.architecture, again=self.again)
            except EC2ServiceException as error:
                self.observer.test_failed(ami, [], f"{error}\n{error.output}".strip())
                raise
        if verdict.problem:
            self.observer.test_failed(ami, verdict.checks, verdict.output)
        else:
            self.observer.test_completed(ami, verdict.checks)
        return verdict.to_json()

    def _failure(self, judged: Verdict, region: str, step: str) -> EC2TestException:
        return EC2TestException(
            judged.problem, image=self.image.name, region=region, step=step, output=judged.output
        )
