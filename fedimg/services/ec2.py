"""EC2Service: the process that makes public AMIs of one raw image, from top to bottom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from fedimg.aws import amis, copies, plan, publish, snapshots
from fedimg.aws.client import retrying
from fedimg.aws.client.availability import Origin, Outages, Watch
from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import explained
from fedimg.aws.client.retrying import RetryingClient
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.instance import network as security_group
from fedimg.aws.instance.attempts import Attempts
from fedimg.aws.instance.network import JobNetwork
from fedimg.aws.plan import Plan
from fedimg.aws.tags import Labels
from fedimg.aws.write import ebs_direct, utility_instance
from fedimg.aws.write.ebs_direct import DirectWriter
from fedimg.aws.write.utility_instance import UtilityWriter
from fedimg.config import EC2, Check
from fedimg.exceptions import (
    EC2ServiceException,
    EC2TestException,
    EC2UtilityException,
)
from fedimg.images import AMI, AMIType, RawImage, Virtualization
from fedimg.progress import AWAY, FAILED, PUBLIC, Observer
from fedimg.services.boot_checks import BootChecks
from fedimg.services.region_lines import RegionLines
from fedimg.steps import Branch, PlainSteps, Steps

__all__ = ["EC2Service", "EC2ServiceException", "EC2TestException", "EC2UtilityException"]


T = TypeVar("T")

#: What is counted across workers.
UTILITIES = "utility instances"
COPIES = "copies"


class Semaphores(Protocol):
    """Places that all jobs together have so many of."""

    def acquire(self, kind: str, job: str, limit: int) -> bool:
        """Whether a job has its place; until it has, it stands in line."""

    def release(self, kind: str, job: str) -> None:
        """Give a job's place back, or leave the line."""


@dataclass(frozen=True)
class _Outcome:
    """How a region ended; without an `error` its AMIs are public."""

    region: str
    amis: Sequence[AMI]
    error: EC2ServiceException | None = None


@dataclass(frozen=True)
class Result:
    """Where an image is public now, and which further regions failed for which reason.

    Those of them that are away are asked again by themselves.
    """

    published: Mapping[str, Sequence[AMI]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    away: Sequence[str] = ()


class EC2Service:
    """Publishes raw images in EC2.

    It knows nothing of bus and queue: effects run through `steps`, and an observer is told
    what happens. Setting `stop` ends whatever the service does, with Cancelled. A failed boot
    check sets it, too: after a failure the next upload is for a new service, with a new `stop`.
    `doubted` gets the regions where the snapshot may have been copied twice.
    """

    def __init__(
        self,
        settings: EC2,
        *,
        site: str,
        checks: Sequence[Check],
        clients: Clients,
        stop: threading.Event | None = None,
        semaphores: Semaphores | None = None,
        outages: Outages | None = None,
        doubted: set[str] | None = None,
    ) -> None:
        self.settings = settings
        self.site = site
        self.checks = checks
        self.clients = clients
        self.stop = stop or threading.Event()
        self.semaphores = semaphores
        self.outages = outages
        self.doubted = set() if doubted is None else doubted
        self._origin = Origin(clients, settings.origin)

    def watch(self, region: str) -> Watch | None:
        """Who tells whether a further region is away; without `outages`, nobody does."""
        if self.outages is None or region == self.settings.origin:
            return None
        return Watch(self.clients, self._origin, region, self.outages)

    def plan(self, image: RawImage, waiter: Waiter | None = None) -> Plan:
        """What would be made of an image, and where; nothing is touched.

        Raises EC2ServiceException when EC2 cannot be asked, with a `waiter` as long as an outage
        may last, or when nothing can be made.
        """
        origin = self.settings.origin

        def make() -> Plan:
            return plan.make(image, self.settings, self.clients, self.watch)

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
        # While the image is written there is time for it.
        retrying.prepare(self.clients, lambda: planned.types)
        upload = _Upload(self, image, observer, planned, again)
        place = JobNetwork(**steps.run("security-group", upload.prepare))
        snapshot = steps.run("write", lambda: upload.write(place))
        steps.run("snapshot", lambda: upload.complete(snapshot))
        steps.run("release", lambda: upload.release(place))
        originals = _amis(steps.run("register", lambda: upload.register(snapshot)))
        # From here on all at once; the boot checks come first, as everything waits for them.
        lines = {
            **{
                f"boot-check:{kind}": upload.boot_check(kind, originals, place)
                for kind in planned.tested[planned.origin]
            },
            planned.origin: upload.publish_origin(snapshot, originals),
            **{
                region: upload.publish_copy(region, snapshot, originals)
                for region in planned.further
            },
        }
        at_once = self.settings.limits.regions
        outcomes = steps.fan_out(upload.lines.counted(lines, at_once), at_once)
        ended = [outcome for outcome in outcomes.values() if outcome]
        published = {outcome.region: outcome.amis for outcome in ended if not outcome.error}
        failed = {outcome.region: outcome.error for outcome in ended if outcome.error}
        if not published:
            raise failed[planned.origin]
        return Result(
            published,
            {region: str(error) for region, error in failed.items()},
            [region for region, error in failed.items() if error.away],
        )


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
        self._waiters: dict[str, Waiter] = {}
        self.lines = RegionLines()
        # Regions where a step is taken once more, which may have left something to go on from.
        self._resumed: set[str] = set()
        # Where it stands in each region, for what is said while EC2 is away.
        self._at_step: dict[str, str] = {}
        self._boot_checks = BootChecks(
            image,
            planned,
            service.checks,
            observer,
            self._progress,
            self._attempts,
            service.stop,
            again,
        )

    def prepare(self, region: str | None = None) -> dict[str, Any]:
        """The place where the job's instances live, in the origin or a further region."""
        region = region or self._origin
        network = self._settings.network
        if region != self._origin:
            subnet = self._settings.test.subnets.get(region, "")
            network = network.model_copy(update={"vpc": "", "subnet": subnet})
        with self._at("security-group", region=region):
            place = self._waiter(region).settled(
                lambda: security_group.prepare(
                    self._ec2(region), self._waiter(region), self._labels, network
                )
            )
        return place.to_json()

    def write(self, place: JobNetwork) -> str:
        """The image's bytes become a snapshot; its id."""
        attempts = self._attempts(self._origin, utility_instance.ROLE, place)
        with self._at("write", EC2UtilityException):
            if self._settings.write_via == "utility":
                self._place(UTILITIES, self._settings.limits.utilities)
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
                self._ec2(),
                self._waiter(),
                snapshot,
                limit=self._settings.limits.snapshot,
                polling=self._polling(),
            )

    def release(self, place: JobNetwork) -> None:
        """The utility instance has done its work and goes."""
        with self._at("release"):
            self._attempts(self._origin, utility_instance.ROLE, place).dismiss()
            self._give_back(UTILITIES)

    def register(self, snapshot: str) -> list[dict[str, Any]]:
        """Every AMI type of the origin, private."""
        with self._at("register"):
            made = self._register(self._origin, snapshot)
        for ami in made:
            self._observer.registered(ami)
        return [ami.to_json() for ami in made]

    def boot_check(
        self, kind: AMIType, originals: Sequence[AMI], place: JobNetwork
    ) -> Branch[_Outcome | None]:
        """An AMI of the origin boots and passes; the verdict is for all of its virtualization."""
        line = self._boot_checks.branch(kind, originals, place)

        def body(steps: Steps) -> _Outcome | None:
            error = line.body(steps)
            return _Outcome(self._origin, [], error) if error else None

        return Branch(line.names, body)

    def publish_origin(self, snapshot: str, originals: Sequence[AMI]) -> Branch[_Outcome | None]:
        """The origin's AMIs become public when the checks have passed.

        Its failure is the origin's own, too, by now: the other regions have their copies.
        """

        def body(steps: Steps) -> _Outcome:
            passed = self._boot_checks.passed
            try:
                return self._publish(steps, self._origin, snapshot, originals, passed)
            except EC2ServiceException as error:
                return self._failed(self._origin, error)

        return Branch([f"publish:{self._origin}"], body)

    def publish_copy(
        self, region: str, snapshot: str, originals: Sequence[AMI]
    ) -> Branch[_Outcome | None]:
        """A further region gets its copy and AMIs, public when the checks have passed; those that
        are made there, too, if that is wanted.

        Its failure is its own: the other regions go on.
        """
        copy, register = f"copy:{region}", f"register:{region}"
        tests = self._boot_checks.steps(region)

        def body(steps: Steps) -> _Outcome:
            try:
                copied = self._run_lasting(
                    steps, copy, region, lambda: self._copy(region, snapshot)
                )
                made = _amis(
                    self._run_lasting(
                        steps,
                        register,
                        region,
                        lambda: self._register_copy(region, copied, originals),
                    )
                )

                def passed() -> set[Virtualization]:
                    return self._boot_checks.passed_in(
                        steps, region, made, lambda: self.prepare(region)
                    )

                return self._publish(steps, region, copied, made, passed)
            except EC2ServiceException as error:
                return self._failed(region, error)

        return Branch([copy, register, *tests, f"publish:{region}"], body)

    def _written(self) -> str | None:
        return snapshots.find(self._ec2(), self._labels) or ebs_direct.recovered(
            self._ec2(), self._waiter(), self._labels
        )

    def _writer(self, attempts: Attempts) -> UtilityWriter | DirectWriter:
        def on_progress(words: str) -> None:
            self._progress(self._origin, "write", words)

        clients = self._service.clients
        if self._settings.write_via == "utility":
            return UtilityWriter(attempts, retrying.once(clients, self._origin), on_progress)
        return DirectWriter(
            self._ec2(),
            ebs_direct.client(clients, self._origin, jobs=self._settings.limits.jobs),
            self._waiter(),
            self._labels,
            self._settings,
            on_progress,
        )

    def _copy(self, region: str, snapshot: str) -> str:
        self._progress(region, "copy")
        with self._at("copy", region=region):
            slot = f"{COPIES}:{region}"
            self._place(slot, self._settings.limits.copies, region)
            copied = copies.copied(
                self._ec2(region),
                retrying.once(self._service.clients, region, self._service.watch(region)),
                self._waiter(region),
                self._labels,
                copies.Source(self._origin, snapshot),
                look_first=self._again or region in self._resumed,
                doubted=lambda: self._service.doubted.add(region),
                limits=self._settings.limits,
                polling=self._polling(region),
            )
            self._give_back(slot)
        return copied

    def _place(self, kind: str, limit: int, region: str | None = None) -> None:
        """Wait for the job's place among those of a kind, of all workers together."""
        semaphores = self._service.semaphores
        if semaphores is None:
            return
        try:
            self._waiter(region).until(
                lambda: semaphores.acquire(kind, self._labels.job, limit) or None,
                what=f"a place among the {limit} {kind} at once",
                limit=self._settings.limits.copy_,
            )
        except EC2ServiceException:
            # Those behind it are not to wait for who has given up.
            semaphores.release(kind, self._labels.job)
            raise

    def _give_back(self, kind: str) -> None:
        if self._service.semaphores is not None:
            self._service.semaphores.release(kind, self._labels.job)

    def _register(self, region: str, snapshot: str) -> list[AMI]:
        self._progress(region, "register")
        kernel = self._kernel(region)
        kinds = [
            kind
            for kind in self._plan.types[region]
            if kernel or kind.virtualization is Virtualization.HVM
        ]
        if not kinds:
            raise EC2ServiceException("no AMI can be made: EC2 has no PV-GRUB kernel in the region")
        made = amis.register_all(
            self._ec2(region),
            self._waiter(region),
            self._labels,
            kinds,
            amis.Basis(self._image, region, snapshot, kernel, self._settings.amis),
        )
        amis.available(
            self._ec2(region),
            self._waiter(region),
            made,
            limit=self._settings.limits.image,
            polling=self._polling(region),
        )
        return made

    def _kernel(self, region: str) -> str | None:
        """The region's PV-GRUB kernel, if PV AMIs are planned there and EC2 has one.

        A region that did not answer when this was planned is asked now.
        """
        planned = self._plan.kernels.get(region)
        if planned or Virtualization.PARAVIRTUAL not in {
            kind.virtualization for kind in self._plan.types[region]
        }:
            return planned
        configured = self._settings.amis.paravirtual_kernels
        return self._service.clients.kernels.of(self._ec2(region), region, configured)

    def _register_copy(
        self, region: str, snapshot: str, originals: Sequence[AMI]
    ) -> list[dict[str, Any]]:
        with self._at("register", region=region):
            made = self._register(region, snapshot)
        sources = {ami.type: ami for ami in originals}
        for ami in made:
            self._observer.copied(ami, sources[ami.type])
        return [ami.to_json() for ami in made]

    def _publish(
        self,
        steps: Steps,
        region: str,
        snapshot: str,
        made: Sequence[AMI],
        wait: Callable[[], set[Virtualization]],
    ) -> _Outcome:
        self._progress(region, "waiting for the boot check")
        passed = wait()

        def effect() -> list[dict[str, Any]]:
            self._progress(region, "publish")
            with self._at("publish", region=region):
                good = [ami for ami in made if ami.type.virtualization in passed]
                for ami in made:
                    if ami not in good:
                        amis.deregister(self._ec2(region), ami)
                        self._observer.dropped(ami, "its virtualization type failed the boot check")
                if good:
                    publish.publish_all(
                        self._ec2(region), self._waiter(region), snapshot, good, self._observer
                    )
            dropped = sorted({str(ami.type) for ami in made if ami not in good})
            detail = f"without {', '.join(dropped)}: not booted" if dropped else ""
            self._progress(region, PUBLIC, detail)
            return [ami.to_json() for ami in good]

        public = self._run_lasting(steps, f"publish:{region}", region, effect)
        return _Outcome(region, _amis(public))

    def _run_lasting(self, steps: Steps, name: str, region: str, effect: Callable[[], T]) -> T:
        step = name.partition(":")[0]
        return steps.run(name, lambda: self._lasting(region, step, effect))

    def _lasting(self, region: str, step: str, effect: Callable[[], T]) -> T:
        """What a step comes to in a region that may be away for a while.

        As long as another region goes on, it is waited for until it is back. Then the job is not
        held up for it: raises EC2ServiceException that says it is away.
        """
        watch = self._service.watch(region)
        while watch is not None:
            try:
                with self._at(step, region=region):
                    watch.meet()
                    try:
                        return effect()
                    except EC2ServiceException as error:
                        if not error.away:
                            watch.refused(error.__cause__)
                        raise
            except EC2ServiceException as error:
                if not error.away:
                    raise
                self._give_back(f"{COPIES}:{region}")
                self._observer.progress(region, step, f"waiting: {error.problem}")
                if not self.lines.outlast(lambda: self._is_away(watch), self._service.stop):
                    raise
                self._resumed.add(region)
        return effect()

    def _is_away(self, watch: Watch) -> bool:
        try:
            watch.check()
        except EC2ServiceException:
            return True
        return False

    def _failed(self, region: str, error: EC2ServiceException) -> _Outcome:
        self._observer.progress(region, AWAY if error.away else FAILED, error=str(error))
        return _Outcome(region, [], error)

    def _attempts(self, region: str, role: str, place: JobNetwork) -> Attempts:
        return Attempts(
            self._ec2(region),
            self._waiter(region),
            self._labels,
            self._settings,
            place,
            role,
            polling=self._polling(region),
        )

    def _waiter(self, region: str | None = None) -> Waiter:
        where = region or self._origin
        if where not in self._waiters:
            service = self._service
            self._waiters[where] = Waiter(
                service.settings.limits, service.stop, watch=service.watch(where)
            )
        return self._waiters[where]

    def _ec2(self, region: str | None = None) -> Client:
        where = region or self._origin
        watch = self._service.watch(where)

        def away(words: str) -> None:
            self._observer.progress(where, self._at_step.get(where, "preparing"), words)

        waiter = Waiter(self._settings.limits, self._service.stop, away, watch)
        if watch is None:
            return RetryingClient(self._service.clients, where, waiter)
        return RetryingClient(
            self._service.clients, where, waiter, keys_at_fault=watch.keys_at_fault
        )

    def _progress(self, region: str, step: str, detail: str = "") -> None:
        self._at_step[region] = step
        self._observer.progress(region, step, detail)

    def _polling(self, region: str | None = None) -> BatchedPolling:
        return self._service.clients.polling(region or self._origin)

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
