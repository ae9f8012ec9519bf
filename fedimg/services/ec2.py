"""EC2Service: the process that makes public AMIs of one raw image, from top to bottom."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from fedimg.aws import (
    amis,
    boot_check,
    copies,
    direct,
    patience,
    plan,
    publish,
    security_group,
    snapshots,
    utility,
)
from fedimg.aws.attempts import Attempts
from fedimg.aws.boot_check import BootCheck, Verdict
from fedimg.aws.checks import looks_early
from fedimg.aws.clients import Client, Clients
from fedimg.aws.direct import Direct
from fedimg.aws.patience import Patient
from fedimg.aws.plan import Plan
from fedimg.aws.refusals import explained
from fedimg.aws.security_group import Place
from fedimg.aws.tags import Labels
from fedimg.aws.utility import Utility
from fedimg.aws.waiting import Waiter
from fedimg.config import EC2, Check
from fedimg.exceptions import (
    Cancelled,
    EC2ServiceException,
    EC2TestException,
    EC2UtilityException,
)
from fedimg.images import AMI, RawImage, Virtualization
from fedimg.observer import FAILED, PUBLIC, Observer
from fedimg.steps import Branch, PlainSteps, Steps

__all__ = ["EC2Service", "EC2ServiceException", "EC2TestException", "EC2UtilityException"]


@dataclass(frozen=True)
class _Outcome:
    """How a region ended; without an `error` its AMIs are public."""

    region: str
    amis: Sequence[AMI]
    error: EC2ServiceException | None = None


@dataclass(frozen=True)
class Result:
    """Where an image is public now, and which further regions failed for which reason."""

    published: Mapping[str, Sequence[AMI]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


class EC2Service:
    """Publishes raw images in EC2.

    It knows nothing of bus and queue: effects run through `steps`, and an observer is told
    what happens. Setting `stop` ends whatever the service does, with Cancelled. A failed boot
    check sets it, too: after a failure the next upload is for a new service, with a new `stop`.
    """

    def __init__(
        self,
        settings: EC2,
        *,
        site: str,
        checks: Sequence[Check],
        clients: Clients,
        stop: threading.Event | None = None,
    ) -> None:
        self.settings = settings
        self.site = site
        self.checks = checks
        self.clients = clients
        self.stop = stop or threading.Event()

    def plan(self, image: RawImage, waiter: Waiter | None = None) -> Plan:
        """What would be made of an image, and where; nothing is touched.

        Raises EC2ServiceException when EC2 cannot be asked, with a `waiter` as long as an outage
        may last, or when nothing can be made.
        """
        origin = self.settings.origin

        def make() -> Plan:
            return plan.make(image, self.settings, self.clients)

        with explained("planning", image=image.name, region=origin, step="plan"):
            return waiter.outlasted(make) if waiter else make()

    def upload(
        self,
        image: RawImage,
        observer: Observer,
        steps: Steps | None = None,
        *,
        again: bool = False,
    ) -> Result:
        """Make an image public in every planned region, tested before.

        `again` says that an earlier try may have left something to go on from. Where a region
        fails is in the result, as long as another is published. Raised is what fails all of them:
        EC2UtilityException when the image could not be written, EC2TestException when it does not
        boot or fails a check, EC2ServiceException otherwise. What is left over is the caller's to
        clean up.
        """
        steps = steps or PlainSteps()
        waiter = Waiter(
            self.settings.limits,
            self.stop,
            lambda words: observer.progress(self.settings.origin, "plan", words),
        )
        planned = Plan.from_json(steps.run("plan", lambda: self.plan(image, waiter).to_json()))
        upload = _Upload(self, image, observer, planned, again)
        place = Place(**steps.run("security-group", upload.prepare))
        snapshot = steps.run("write", lambda: upload.write(place))
        steps.run("snapshot", lambda: upload.complete(snapshot))
        steps.run("release", lambda: upload.release(place))
        originals = _amis(steps.run("register", lambda: upload.register(snapshot)))
        # From here on all at once; the boot checks come first, as everything waits for them.
        outcomes = steps.fan_out(
            {
                **{
                    f"boot-check:{virtualization}": upload.boot_check(
                        virtualization, originals, place
                    )
                    for virtualization in planned.virtualizations
                },
                planned.origin: upload.publish_origin(snapshot, originals),
                **{
                    region: upload.publish_copy(region, snapshot, originals)
                    for region in planned.further
                },
            },
            self.settings.limits.regions,
        )
        ended = [outcome for outcome in outcomes.values() if outcome]
        published = {outcome.region: outcome.amis for outcome in ended if not outcome.error}
        failed = {outcome.region: outcome.error for outcome in ended if outcome.error}
        if not published:
            raise failed[planned.origin]
        return Result(published, {region: str(error) for region, error in failed.items()})


class _Upload:
    """The steps of one upload, in the order in which they happen."""

    def __init__(
        self, service: EC2Service, image: RawImage, observer: Observer, planned: Plan, again: bool
    ) -> None:
        self._service = service
        self._settings = service.settings
        self._image = image
        self._observer = observer
        self._plan = planned
        self._again = again
        self._origin = planned.origin
        self._labels = Labels.of(service.site, image)
        self._waiter = Waiter(service.settings.limits, service.stop)
        # Where it stands in each region, for what is said while EC2 is away.
        self._at_step: dict[str, str] = {}
        self._verdicts: dict[Virtualization, Future[bool]] = {
            virtualization: Future() for virtualization in planned.virtualizations
        }

    def prepare(self) -> dict[str, Any]:
        """The place where the job's instances live."""
        with self._at("security-group"):
            place = self._waiter.settled(
                lambda: security_group.prepare(
                    self._ec2(), self._waiter, self._labels, self._settings.network
                )
            )
        return place.to_json()

    def write(self, place: Place) -> str:
        """The image's bytes become a snapshot; its id."""
        attempts = self._attempts(utility.ROLE, place)
        with self._at("write", EC2UtilityException):
            if self._again:
                if written := self._written():
                    return written
                # A write that a crash interrupted is abandoned: its keys are gone.
                attempts.end()
            self._observer.started()
            return self._writer(attempts).write(self._image)

    def complete(self, snapshot: str) -> None:
        """The snapshot holds all the bytes."""
        with self._at("snapshot"):
            snapshots.completed(
                self._ec2(), self._waiter, snapshot, limit=self._settings.limits.snapshot
            )

    def release(self, place: Place) -> None:
        """The utility instance has done its work and goes."""
        with self._at("release"):
            self._attempts(utility.ROLE, place).dismiss()

    def register(self, snapshot: str) -> list[dict[str, Any]]:
        """Every AMI type of the origin, private."""
        with self._at("register"):
            made = self._register(self._origin, snapshot)
        for ami in made:
            self._observer.registered(ami)
        return [ami.to_json() for ami in made]

    def boot_check(
        self, virtualization: Virtualization, originals: Sequence[AMI], place: Place
    ) -> Branch[_Outcome | None]:
        """One AMI of a virtualization type boots and passes; the verdict is for all of them."""
        name = f"boot-check:{virtualization}"
        mine = [ami for ami in originals if ami.type.virtualization is virtualization]

        # The first type is HVM wherever there is one: an image, or EC2, may fail PV alone.
        decisive = virtualization is self._plan.virtualizations[0]

        def body(steps: Steps) -> _Outcome | None:
            verdict = self._verdicts[virtualization]
            try:
                judged = Verdict.from_json(steps.run(name, lambda: self._boot(mine, place)))
                if judged.problem and decisive:
                    raise EC2TestException(
                        judged.problem,
                        image=self._image.name,
                        region=self._origin,
                        step=name,
                        output=judged.output,
                    )
                verdict.set_result(not judged.problem)
            except BaseException as error:
                if isinstance(error, EC2ServiceException) and not decisive:
                    verdict.set_result(False)
                    return _Outcome(self._origin, [], error)
                verdict.set_exception(error)
                # Nothing of this image will be public, so the other lines need not go on.
                self._service.stop.set()
                raise
            return None

        return Branch([name], body)

    def publish_origin(self, snapshot: str, originals: Sequence[AMI]) -> Branch[_Outcome | None]:
        """The origin's AMIs become public when the checks have passed.

        Its failure is the origin's own, too, by now: the other regions have their copies.
        """

        def body(steps: Steps) -> _Outcome:
            try:
                return self._publish(steps, self._origin, snapshot, originals)
            except EC2ServiceException as error:
                return self._failed(self._origin, error)

        return Branch([f"publish:{self._origin}"], body)

    def publish_copy(
        self, region: str, snapshot: str, originals: Sequence[AMI]
    ) -> Branch[_Outcome | None]:
        """A further region gets its copy and AMIs, public when the checks have passed.

        Its failure is its own: the other regions go on.
        """
        copy, register = f"copy:{region}", f"register:{region}"

        def body(steps: Steps) -> _Outcome:
            try:
                copied = steps.run(copy, lambda: self._copy(region, snapshot))
                made = steps.run(register, lambda: self._register_copy(region, copied, originals))
                return self._publish(steps, region, copied, _amis(made))
            except EC2ServiceException as error:
                return self._failed(region, error)

        return Branch([copy, register, f"publish:{region}"], body)

    def _boot(self, mine: Sequence[AMI], place: Place) -> dict[str, Any]:
        ami = mine[0]
        step = f"boot-check:{ami.type.virtualization}"
        attempts = replace(
            self._attempts(f"{boot_check.ROLE}-{ami.type.virtualization}", place),
            as_users_do=True,
            early=looks_early(self._settings.test),
        )
        check = BootCheck(attempts, self._service.checks)
        with self._at(step, EC2TestException):
            if self._again and amis.public(self._ec2(), mine):
                # Nothing is public that was not tested, so an earlier run has tested these.
                return Verdict(ami.id, "", "", []).to_json()
            self._progress(self._origin, step)
            self._observer.test_started(ami)
            try:
                verdict = check.run(ami, self._image.architecture, again=self._again)
            except EC2ServiceException as error:
                self._observer.test_failed(ami, [], str(error))
                raise
        if verdict.problem:
            self._observer.test_failed(ami, verdict.checks, verdict.output)
        else:
            self._observer.test_completed(ami, verdict.checks)
        return verdict.to_json()

    def _written(self) -> str | None:
        return snapshots.find(self._ec2(), self._labels) or direct.recovered(
            self._ec2(), self._waiter, self._labels
        )

    def _writer(self, attempts: Attempts) -> Utility | Direct:
        def heard(words: str) -> None:
            self._progress(self._origin, "write", words)

        clients = self._service.clients
        if self._settings.write_via == "utility":
            return Utility(attempts, patience.once(clients, self._origin), heard)
        return Direct(
            self._ec2(),
            direct.client(clients, self._origin, jobs=self._settings.limits.jobs),
            self._waiter,
            self._labels,
            self._settings,
            heard,
        )

    def _copy(self, region: str, snapshot: str) -> str:
        self._progress(region, "copy")
        with self._at("copy", region=region):
            return copies.copied(
                self._ec2(region),
                patience.once(self._service.clients, region),
                self._waiter,
                self._labels,
                origin=self._origin,
                snapshot=snapshot,
                look_first=self._again,
                limits=self._settings.limits,
            )

    def _register(self, region: str, snapshot: str) -> list[AMI]:
        self._progress(region, "register")
        made = [
            amis.register(
                self._ec2(region),
                self._waiter,
                self._labels,
                self._image,
                kind,
                region=region,
                snapshot=snapshot,
                kernel=self._plan.kernels.get(region),
                attributes=self._settings.amis,
            )
            for kind in self._plan.types[region]
        ]
        amis.available(self._ec2(region), self._waiter, made, limit=self._settings.limits.image)
        return made

    def _register_copy(
        self, region: str, snapshot: str, originals: Sequence[AMI]
    ) -> list[dict[str, Any]]:
        with self._at("register", region=region):
            made = self._register(region, snapshot)
        sources = {ami.type: ami for ami in originals}
        for ami in made:
            self._observer.copied(ami, sources[ami.type])
        return [ami.to_json() for ami in made]

    def _publish(self, steps: Steps, region: str, snapshot: str, made: Sequence[AMI]) -> _Outcome:
        self._progress(region, "waiting for the boot check")
        passed = self._passed()

        def effect() -> list[dict[str, Any]]:
            self._progress(region, "publish")
            with self._at("publish", region=region):
                good = [ami for ami in made if ami.type.virtualization in passed]
                for ami in made:
                    if ami not in good:
                        amis.deregister(self._ec2(region), ami)
                        self._observer.dropped(ami, "its virtualization type failed the boot check")
                if good:
                    publish.publish_snapshot(self._ec2(region), self._waiter, snapshot)
                for ami in good:
                    publish.publish_ami(self._ec2(region), self._waiter, ami)
                    self._observer.published(ami)
            dropped = sorted({str(ami.type) for ami in made if ami not in good})
            detail = f"without {', '.join(dropped)}: not booted" if dropped else ""
            self._progress(region, PUBLIC, detail)
            return [ami.to_json() for ami in good]

        public = steps.run(f"publish:{region}", effect)
        return _Outcome(region, _amis(public))

    def _failed(self, region: str, error: EC2ServiceException) -> _Outcome:
        self._observer.progress(region, FAILED, error=str(error))
        return _Outcome(region, [], error)

    def _passed(self) -> set[Virtualization]:
        try:
            return {kind for kind, verdict in self._verdicts.items() if verdict.result()}
        except Exception as error:
            raise Cancelled("the boot check failed") from error

    def _attempts(self, role: str, place: Place) -> Attempts:
        return Attempts(self._ec2(), self._waiter, self._labels, self._settings, place, role)

    def _ec2(self, region: str | None = None) -> Client:
        where = region or self._origin

        def away(words: str) -> None:
            self._observer.progress(where, self._at_step.get(where, "preparing"), words)

        waiter = Waiter(self._settings.limits, self._service.stop, away)
        return Patient(self._service.clients, where, waiter)

    def _progress(self, region: str, step: str, detail: str = "") -> None:
        self._at_step[region] = step
        self._observer.progress(region, step, detail)

    def _at(
        self,
        step: str,
        kind: type[EC2ServiceException] = EC2ServiceException,
        region: str | None = None,
    ) -> AbstractContextManager[None]:
        return explained(
            step, image=self._image.name, region=region or self._origin, step=step, kind=kind
        )


def _amis(values: Sequence[dict[str, Any]]) -> list[AMI]:
    return [AMI.from_json(value) for value in values]
