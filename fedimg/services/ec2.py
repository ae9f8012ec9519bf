"""EC2Service: the process that makes public AMIs of one raw image, from top to bottom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from fedimg.aws import amis, copies, plan, publish, snapshots
from fedimg.aws.client import retrying
from fedimg.aws.client.availability import Origin, Outages, Watch
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import explained
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.instance import network
from fedimg.aws.instance.attempts import Attempts
from fedimg.aws.instance.network import JobNetwork
from fedimg.aws.plan import Plan
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
from fedimg.process.log_context import log_fields
from fedimg.progress import AWAY, FAILED, PUBLIC, Observer
from fedimg.services.boot_checks import BootChecks
from fedimg.services.job_context import Holds, JobContext, Semaphores
from fedimg.services.recorded import RecordedSteps
from fedimg.steps import Branch, PlainSteps, Steps

__all__ = ["EC2Service", "EC2ServiceException", "EC2TestException", "EC2UtilityException"]

P = ParamSpec("P")
T = TypeVar("T")

#: What is counted across workers.
UTILITIES = "utility instances"
COPIES = "copies"


@dataclass(frozen=True)
class Result:
    """Where an image is public now, and which further regions failed for which reason.

    Those of the failed that are away are asked again by themselves.
    """

    published: Mapping[str, Sequence[AMI]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    away: Sequence[str] = ()


@dataclass(frozen=True)
class _Outcome:
    """How a region ended; without an `error` its AMIs are public."""

    region: str
    amis: Sequence[AMI]
    error: EC2ServiceException | None = None


class EC2Service:
    """Publishes raw images in EC2.

    The service knows nothing of bus and queue: effects run through `steps`, and an observer is told
    what happens. Setting `stop` ends whatever the service does, with Cancelled. A failed boot check
    sets `stop`, too: after a failure the next upload is for a new service, with a new `stop`.

    Args:
        settings: the site's [ec2] settings.
        site: the name that every resource is tagged with.
        checks: the site's own commands for the boot check.
        clients: AWS clients of the process.
        stop: ends every wait.
        semaphores: limits across workers; without them there are none.
        outages: knows which regions are away; without it, none is.
        holds: knows whether the site is held, and nothing may become public; without it, it is not.
        doubted: gets the regions where the snapshot may have been copied twice.
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
        holds: Holds | None = None,
        doubted: set[str] | None = None,
    ) -> None:
        self.settings = settings
        self.site = site
        self.checks = checks
        self.clients = clients
        self.stop = stop or threading.Event()
        self.semaphores = semaphores
        self.outages = outages
        self.holds = holds
        self.doubted = set() if doubted is None else doubted
        self._origin = Origin(clients, settings.origin)

    def plan(self, image: RawImage, waiter: Waiter | None = None) -> Plan:
        """Return what would be made of an image, and where; nothing is touched.

        With a `waiter` an outage of EC2 is waited for. Raises EC2ServiceException when EC2 cannot
        be asked, or when nothing can be made.
        """
        origin = self.settings.origin

        def make() -> Plan:
            return plan.make(image, self.settings, self.clients, self._watch)

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

        `again` says that an earlier run may have left something to go on from. The upload succeeds
        when the image is public in one region; the result names those that failed. What fails all
        of them is raised: EC2UtilityException when the image could not be written, EC2TestException
        when it does not boot or fails a check, EC2ServiceException otherwise. The caller cleans up
        what is left over.
        """
        job = JobContext(
            self.settings,
            self.site,
            image,
            observer,
            self.clients,
            self._watch,
            self.semaphores,
            self.holds,
            self.stop,
            again=again,
        )
        steps = steps or PlainSteps()
        step = RecordedSteps(steps)
        planned = step.run("plan", self.plan, image, self._planning(observer))
        # There is time for it while the image is written.
        retrying.prepare(self.clients, lambda: planned.types)

        upload = _Upload(job, planned, self.checks, self.doubted)
        origin = planned.origin
        job_network = step.run("security-group", upload.open_network, origin)
        snapshot = step.run("write", upload.write, job_network)
        step.run("snapshot", upload.wait_until_complete, snapshot)
        step.run("release", upload.terminate_writer, job_network)
        originals = step.run("register", upload.register, snapshot)
        # From here on all at once; the boot checks come first, as everything waits for them.
        return upload.in_parallel(
            steps,
            boot_checks=[
                upload.boot_check(ami_type, originals, job_network)
                for ami_type in planned.tested[origin]
            ],
            regions=[
                upload.publish_originals(snapshot, originals),
                *(
                    upload.copy_and_publish(region, snapshot, originals)
                    for region in planned.further
                ),
            ],
        )

    def _planning(self, observer: Observer) -> Waiter:
        """Return a waiter for the plan, which reports an outage as the plan's progress."""
        return Waiter(
            self.settings.limits,
            self.stop,
            lambda words: observer.progress(self.settings.origin, "plan", words),
            region=self.settings.origin,
        )

    def _watch(self, region: str) -> Watch | None:
        """Return what tells whether a further region is away; without `outages`, nothing does."""
        if self.outages is None or region == self.settings.origin:
            return None
        return Watch(self.clients, self._origin, region, self.outages)


@dataclass(frozen=True)
class _Line:
    """One of the lines of steps that go on side by side: its name, and what it does."""

    name: str
    branch: Branch[_Outcome | None]


class _Upload:
    """The steps of one upload, in the order in which they happen."""

    def __init__(
        self, job: JobContext, planned: Plan, checks: Sequence[Check], doubted: set[str]
    ) -> None:
        self._job = job
        self._plan = planned
        self._doubted = doubted
        self._boot_checks = BootChecks(job, planned, checks)

    def open_network(self, region: str) -> JobNetwork:
        """Return where the job's instances live in a region; its security group is made."""
        job = self._job
        settings = job.settings.network
        if region != self._plan.origin:
            subnet = job.settings.test.subnets.get(region, "")
            settings = settings.model_copy(update={"vpc": "", "subnet": subnet})
        waiter = job.waiter(region)
        with job.explained(region, "security-group"):
            return waiter.settled(
                lambda: network.prepare(job.ec2(region), waiter, job.labels, settings)
            )

    def write(self, job_network: JobNetwork) -> str:
        """Write the image's bytes into a snapshot of the origin, and return its id."""
        job, origin = self._job, self._plan.origin
        attempts = job.attempts(origin, utility_instance.ROLE, job_network)
        with job.explained(origin, "write", EC2UtilityException):
            if job.settings.write_via == "utility":
                job.acquire(origin, UTILITIES, job.settings.limits.utilities)
            if job.again:
                if written := self._written_before():
                    return written
                # A write that a crash interrupted is abandoned: its keys are gone.
                attempts.end()
            job.observer.started()
            return self._writer(attempts).write(job.image)

    def wait_until_complete(self, snapshot: str) -> None:
        """Wait until the snapshot holds all the bytes."""
        job, origin = self._job, self._plan.origin
        with job.explained(origin, "snapshot"):
            snapshots.completed(
                job.ec2(origin),
                job.waiter(origin),
                snapshot,
                limit=job.settings.limits.snapshot,
                polling=job.polling(origin),
            )

    def terminate_writer(self, job_network: JobNetwork) -> None:
        """Terminate the utility instance, whose work is done."""
        job, origin = self._job, self._plan.origin
        with job.explained(origin, "release"):
            job.attempts(origin, utility_instance.ROLE, job_network).dismiss()
            job.release(UTILITIES)

    def register(self, snapshot: str) -> list[AMI]:
        """Register every AMI type of the origin, private, and return the AMIs."""
        origin = self._plan.origin
        with self._job.explained(origin, "register"):
            registered = self._register(origin, snapshot)
        for ami in registered:
            self._job.observer.registered(ami)
        return registered

    def boot_check(
        self, ami_type: AMIType, originals: Sequence[AMI], job_network: JobNetwork
    ) -> _Line:
        """Boot an AMI of the origin and check it; the verdict is for all of its virtualization."""
        check = self._boot_checks.branch(ami_type, originals, job_network)

        def body(steps: Steps) -> _Outcome | None:
            error = check.body(steps)
            return _Outcome(self._plan.origin, [], error) if error else None

        return _Line(f"boot-check:{ami_type}", Branch(check.names, body))

    def publish_originals(self, snapshot: str, originals: Sequence[AMI]) -> _Line:
        """Make the origin's AMIs public when the boot checks have passed."""
        region = self._plan.origin

        def body(step: RecordedSteps) -> Sequence[AMI]:
            return self._publish(step, region, snapshot, originals, self._boot_checks.passed)

        return self._region_line(region, [f"publish:{region}"], body)

    def copy_and_publish(self, region: str, snapshot: str, originals: Sequence[AMI]) -> _Line:
        """Copy the snapshot to a further region, register its AMIs and make them public.

        The AMIs are booted there, too, where the site wants that.
        """
        copy, register = f"copy:{region}", f"register:{region}"
        tests = self._boot_checks.steps(region)

        def body(step: RecordedSteps) -> Sequence[AMI]:
            copied = step.run(copy, self._lasting(region, "copy", self._copy), region, snapshot)
            registering = self._lasting(region, "register", self._register_copies)
            registered = step.run(register, registering, region, copied, originals)

            def passed() -> set[Virtualization]:
                return self._boot_checks.passed_in(step, region, registered, self.open_network)

            return self._publish(step, region, copied, registered, passed)

        return self._region_line(region, [copy, register, *tests, f"publish:{region}"], body)

    def in_parallel(
        self, steps: Steps, *, boot_checks: Iterable[_Line], regions: Iterable[_Line]
    ) -> Result:
        """Go on with every line at once, and return where the image is public when all have ended.

        Raises the origin's failure when the image is public nowhere.
        """
        branches = {line.name: line.branch for line in (*boot_checks, *regions)}
        at_once = self._job.settings.limits.regions
        outcomes = steps.fan_out(self._job.lines.counted(branches, at_once), at_once)
        ended = [outcome for outcome in outcomes.values() if outcome]
        published = {outcome.region: outcome.amis for outcome in ended if not outcome.error}
        failed = {outcome.region: outcome.error for outcome in ended if outcome.error}
        if not published:
            raise failed[self._plan.origin]
        return Result(
            published,
            {region: str(error) for region, error in failed.items()},
            [region for region, error in failed.items() if error.away],
        )

    def _region_line(
        self, region: str, names: Sequence[str], body: Callable[[RecordedSteps], Sequence[AMI]]
    ) -> _Line:
        """Return a region's line, whose failure is its own: the other regions go on."""

        def ends(steps: Steps) -> _Outcome:
            try:
                with log_fields(region=region):
                    return _Outcome(region, body(RecordedSteps(steps)))
            except EC2ServiceException as error:
                state = AWAY if error.away else FAILED
                self._job.observer.progress(region, state, error=str(error))
                return _Outcome(region, [], error)

        return _Line(region, Branch(names, ends))

    def _lasting(self, region: str, step: str, action: Callable[P, T]) -> Callable[P, T]:
        return self._job.outlasting(
            region, step, action, on_outage=lambda: self._job.release(f"{COPIES}:{region}")
        )

    def _written_before(self) -> str | None:
        """Return the snapshot that an earlier run wrote, if it did."""
        job, origin = self._job, self._plan.origin
        return snapshots.find(job.ec2(origin), job.labels) or ebs_direct.recovered(
            job.ec2(origin), job.waiter(origin), job.labels
        )

    def _writer(self, attempts: Attempts) -> UtilityWriter | DirectWriter:
        job, origin = self._job, self._plan.origin

        def on_progress(words: str) -> None:
            job.report(origin, "write", words)

        if job.settings.write_via == "utility":
            written = job.observer.written
            return UtilityWriter(attempts, job.ec2_once(origin), on_progress, written)
        return DirectWriter(
            job.ec2(origin),
            ebs_direct.client(job.clients, origin, jobs=job.settings.limits.jobs),
            job.waiter(origin),
            job.labels,
            job.settings,
            on_progress,
            job.observer.written,
        )

    def _copy(self, region: str, snapshot: str) -> str:
        """Copy the origin's snapshot to a region, wait until that is complete, return its id."""
        job = self._job
        job.report(region, "copy")
        with job.explained(region, "copy"):
            job.acquire(region, f"{COPIES}:{region}", job.settings.limits.copies)
            copied = copies.copied(
                job.ec2(region),
                job.ec2_once(region),
                job.waiter(region),
                job.labels,
                copies.Source(self._plan.origin, snapshot),
                look_first=job.may_be_made(region),
                doubted=lambda: self._doubted.add(region),
                limits=job.settings.limits,
                polling=job.polling(region),
            )
            job.release(f"{COPIES}:{region}")
        return copied

    def _register_copies(self, region: str, snapshot: str, originals: Sequence[AMI]) -> list[AMI]:
        """Register a further region's AMIs, and report each as the copy of its original."""
        with self._job.explained(region, "register"):
            registered = self._register(region, snapshot)
        sources = {ami.type: ami for ami in originals}
        for ami in registered:
            self._job.observer.copied(ami, sources[ami.type])
        return registered

    def _register(self, region: str, snapshot: str) -> list[AMI]:
        job = self._job
        job.report(region, "register")
        kernel = self._kernel(region)
        possible = [
            ami_type
            for ami_type in self._plan.types[region]
            if kernel or ami_type.virtualization is Virtualization.HVM
        ]
        if not possible:
            raise EC2ServiceException("no AMI can be made: EC2 has no PV-GRUB kernel in the region")
        registered = amis.register_all(
            job.ec2(region),
            job.waiter(region),
            job.labels,
            possible,
            amis.Basis(job.image, region, snapshot, kernel, job.settings.amis),
        )
        amis.available(
            job.ec2(region),
            job.waiter(region),
            registered,
            limit=job.settings.limits.image,
            polling=job.polling(region),
        )
        return registered

    def _kernel(self, region: str) -> str | None:
        """Return the region's PV-GRUB kernel, if PV AMIs are planned there and EC2 has one.

        A region that did not answer when this was planned is asked now.
        """
        planned = self._plan.kernels.get(region)
        virtualizations = {ami_type.virtualization for ami_type in self._plan.types[region]}
        if planned or Virtualization.PARAVIRTUAL not in virtualizations:
            return planned
        return self._job.kernel(region)

    def _publish(
        self,
        step: RecordedSteps,
        region: str,
        snapshot: str,
        registered: Sequence[AMI],
        wait_for_verdict: Callable[[], set[Virtualization]],
    ) -> list[AMI]:
        """Wait for the boot check, then make public what it has passed; return these AMIs."""
        self._job.report(region, "waiting for the boot check")
        passed = wait_for_verdict()
        publishing = self._lasting(region, "publish", self._make_public)
        return step.run(f"publish:{region}", publishing, region, snapshot, registered, passed)

    def _make_public(
        self, region: str, snapshot: str, registered: Sequence[AMI], passed: set[Virtualization]
    ) -> list[AMI]:
        """Make a region's snapshot and AMIs public, without those that have not passed."""
        job = self._job
        job.report_publish(region)
        good = [ami for ami in registered if ami.type.virtualization in passed]
        dropped = [ami for ami in registered if ami not in good]
        with job.explained(region, "publish"):
            for ami in dropped:
                amis.deregister(job.ec2(region), ami)
                job.observer.dropped(ami, "its virtualization type failed the boot check")
            if good:
                facts = job.facts(self._plan.origin)
                publish.publish_all(
                    job.ec2(region), job.waiter(region), snapshot, good, job.observer, facts
                )
        types = ", ".join(sorted({str(ami.type) for ami in dropped}))
        job.report(region, PUBLIC, f"without {types}: not booted" if types else "")
        return good
