"""EC2Service: the process that makes public AMIs of one raw image, from top to bottom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fedimg.aws import plan
from fedimg.aws.client import retrying
from fedimg.aws.client.availability import Origin, Watch
from fedimg.aws.client.errors import explained
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.instance.network import JobNetwork
from fedimg.aws.plan import Plan
from fedimg.config import Check
from fedimg.exceptions import (
    EC2ServiceException,
    EC2TestException,
    EC2UtilityException,
)
from fedimg.images import AMI, AMIType, RawImage
from fedimg.process.log_context import log_fields
from fedimg.progress import Observer, last_step
from fedimg.services.boot_checks import BootChecks
from fedimg.services.bundling import Bundling, bundle_of
from fedimg.services.encrypted import EncryptedAMIs
from fedimg.services.job_context import JobContext
from fedimg.services.outcome import Outcome, Result, one_of, result_of
from fedimg.services.recorded import RecordedSteps, recorded
from fedimg.services.region_steps import RegionSteps
from fedimg.services.site import Coordination, Site
from fedimg.services.writing import Writing
from fedimg.steps import Branch, PlainSteps, Steps

__all__ = ["EC2Service", "EC2ServiceException", "EC2TestException", "EC2UtilityException"]

#: The progress of a region whose AMIs have not been judged yet.
WAITING = "waiting for the boot check"
#: No other job runs, and nothing is away or held.
_ALONE = Coordination()


class EC2Service:
    """Publishes raw images in EC2.

    The service knows nothing of bus and queue: effects run through `steps`, and an observer is told
    what happens. Setting `stop` ends whatever the service does, with Cancelled. A failed boot check
    sets `stop`, too: after a failure the next upload is for a new service, with a new `stop`.

    Args:
        site: publishes the images.
        shared: what the jobs of all workers share.
        stop: ends every wait.
        doubted: gets the regions where the snapshot may have been copied twice.
    """

    def __init__(
        self,
        site: Site,
        shared: Coordination = _ALONE,
        *,
        stop: threading.Event | None = None,
        doubted: set[str] | None = None,
    ) -> None:
        self.site = site
        self.shared = shared
        self.stop = stop or threading.Event()
        self.doubted = set() if doubted is None else doubted
        self._origin = Origin(site.clients, site.settings.origin)

    def plan(self, image: RawImage, waiter: Waiter | None = None) -> Plan:
        """Return what would be made of an image, and where; nothing is touched.

        With a `waiter` an outage of EC2 is waited for. Raises EC2ServiceException when EC2 cannot
        be asked, or when nothing can be made.
        """
        origin = self.site.settings.origin

        def make() -> Plan:
            return plan.make(image, self.site.settings, self.site.clients, self._watch)

        with explained("planning", image=image.name, region=origin, step="plan"):
            return waiter.retried(make) if waiter else make()

    def upload(
        self,
        image: RawImage,
        observer: Observer,
        steps: Steps | None = None,
        *,
        rerun: bool = False,
    ) -> Result:
        """Make an image public in every planned region, tested before.

        `rerun` says that an earlier run may have left something to go on from. The upload succeeds
        when the image is public in one region; the result names those that failed. What fails all
        of them is raised: EC2UtilityException when the image could not be written, EC2TestException
        when it does not boot or fails a check, EC2ServiceException otherwise. The caller cleans up
        what is left over.
        """
        steps = steps or PlainSteps()
        planned = self._recorded_plan(steps, image, observer)
        # There is time for it while the image is written.
        retrying.prepare(self.site.clients, lambda: planned.types)
        job = JobContext(
            self.site, self.shared, image, observer, self._watch, self.stop, rerun=rerun
        )
        upload = Upload(job, planned, steps, self.site.checks, self.doubted)

        network = upload.open_network()
        snapshot = upload.write(network)
        upload.wait_until_complete(snapshot)
        upload.terminate_writer(network)
        bundle = upload.bundle() if upload.bundles_in(planned.origin) else ""
        originals = upload.register(snapshot, bundle)
        # From here on all at once; the boot checks come first, as everything waits for them.
        return upload.in_parallel(
            boot_checks=[
                upload.boot_check(ami_type, originals, network)
                for ami_type in planned.tested[planned.origin]
            ],
            regions=[
                upload.publish_originals(originals, snapshot, network),
                *(
                    upload.copy_and_publish(region, snapshot, originals)
                    for region in planned.further
                ),
            ],
        )

    def _recorded_plan(self, steps: Steps, image: RawImage, observer: Observer) -> Plan:
        """Return the plan, recorded: a restarted job acts on it, whatever has changed."""
        return RecordedSteps(steps).run("plan", self.plan, image, self._planning(observer))

    def _planning(self, observer: Observer) -> Waiter:
        """Return a waiter for the plan, which reports an outage as the plan's progress."""
        return Waiter(
            self.site.settings.limits,
            self.stop,
            lambda words: observer.progress(self.site.settings.origin, "plan", words),
            region=self.site.settings.origin,
        )

    def _watch(self, region: str) -> Watch | None:
        """Return what tells whether a further region is away; without `outages`, nothing does."""
        if self.shared.outages is None or region == self.site.settings.origin:
            return None
        return Watch(self.site.clients, self._origin, region, self.shared.outages)


@dataclass(frozen=True)
class _Branch:
    """A branch of the steps, which runs beside others, with its name."""

    name: str
    branch: Branch[Outcome | None]


class Upload:
    """The steps of one upload, in the order in which they happen."""

    def __init__(
        self,
        job: JobContext,
        planned: Plan,
        steps: Steps,
        checks: Sequence[Check],
        doubted: set[str],
    ) -> None:
        self.steps = RecordedSteps(steps)
        self._parallel = steps
        self._job = job
        self._plan = planned
        self._writing = Writing(job, planned.origin)
        self._bundling = Bundling(job, planned.origin)
        self._region = RegionSteps(job, planned, doubted)
        self._boot_checks = BootChecks(job, planned, checks)
        self._encrypted = EncryptedAMIs(job, planned, self._region, self._boot_checks)

    @recorded("security-group")
    def open_network(self) -> JobNetwork:
        """Return where the job's instances live in the origin; its security group is made.

        Raises EC2ServiceException when the image can become public nowhere.
        """
        self._region.check_any_room()
        return self._region.open_network(self._plan.origin)

    @recorded("write")
    def write(self, job_network: JobNetwork) -> str:
        """Write the image's bytes into a snapshot of the origin, and return its id."""
        origin = self._plan.origin
        if not self.bundles_in(origin):
            return self._writing.write(job_network)
        return self._writing.write(job_network, self._bundling.recipe_beside_the_write)

    @recorded("snapshot")
    def wait_until_complete(self, snapshot: str) -> None:
        """Wait until the snapshot holds all the bytes."""
        self._writing.wait_until_complete(snapshot)

    @recorded("release")
    def terminate_writer(self, job_network: JobNetwork) -> None:
        """Terminate the utility instance, whose work is done."""
        self._writing.terminate_writer(job_network)

    def bundles_in(self, region: str) -> bool:
        """Return whether instance-store AMIs are planned in a region, which need a bundle."""
        return any(ami_type.instance_store for ami_type in self._plan.types[region])

    @recorded("bundle")
    def bundle(self) -> str:
        """Store the image's bundle in the origin's bucket, and return the bundle's id."""
        return self._bundling.bundle()

    @recorded("register")
    def register(self, snapshot: str, bundle: str) -> list[AMI]:
        """Register every AMI type of the origin, private, and return the AMIs."""
        origin = self._plan.origin
        with self._job.explained(origin, "register"):
            registered = self._region.register(origin, snapshot, bundle)
        for ami in registered:
            self._job.observer.registered(ami)
        return registered

    def boot_check(
        self, ami_type: AMIType, originals: Sequence[AMI], job_network: JobNetwork
    ) -> _Branch:
        """Boot an AMI of the origin and check it; the verdict is for all of its virtualization."""
        check = self._boot_checks.branch(ami_type, originals, job_network)

        def body(steps: Steps) -> Outcome | None:
            error = check.body(steps)
            return Outcome(self._plan.origin, [], error) if error else None

        return _Branch(f"boot-check:{ami_type}", Branch(check.names, body))

    def tested_before(self, encrypted: Sequence[AMI] = ()) -> None:
        """Take the image, and its encrypted AMIs, as tested: an earlier run published it."""
        self._boot_checks.tested_before()
        self._encrypted.tested_before(encrypted)

    def publish_originals(
        self, originals: Sequence[AMI], snapshot: str, network: JobNetwork
    ) -> _Branch:
        """Make the origin's AMIs public when the boot checks have passed, then the encrypted ones.

        Encrypted AMIs are made of the `snapshot`, and boot in the `network`.
        """
        region = self._plan.origin

        def body(step: RecordedSteps) -> Outcome:
            try:
                self._job.report(region, WAITING)
                passed = self._boot_checks.passed()
                return self._ended(
                    region,
                    lambda: self._offer(step, region, originals, passed),
                    lambda: self._encrypted.share(step, region, snapshot, passed, network),
                )
            except BaseException as error:
                self._encrypted.failed(region, error)
                raise

        names = [f"{self._last_step}:{region}", *self._encrypted.steps(region)]
        return self._region_branch(region, names, body)

    def copy_and_publish(self, region: str, snapshot: str, originals: Sequence[AMI]) -> _Branch:
        """Copy the snapshot to a further region, register its AMIs and make them public.

        The AMIs are booted there, too, where the site wants that.
        """
        copy, register = f"copy:{region}", f"register:{region}"
        bundles = [f"bundle:{region}"] if self.bundles_in(region) else []
        tests = self._boot_checks.steps(region)

        def body(step: RecordedSteps) -> Outcome:
            copied = step.run(
                copy, self._region.resuming(region, "copy", self._region.copy), region, snapshot
            )
            bundle = ""
            for name in bundles:
                copying = self._region.resuming(region, "bundle", self._bundling.copy)
                bundle = step.run(name, copying, region, bundle_of(originals))
            registering = self._region.resuming(region, "register", self._region.register_copies)
            registered = step.run(register, registering, region, copied, originals, bundle)

            self._job.report(region, WAITING)
            passed = self._boot_checks.passed_in(
                step, region, registered, self._region.open_network
            )
            return self._ended(
                region,
                lambda: self._offer(step, region, registered, passed),
                lambda: self._encrypted.share(step, region, copied, passed),
            )

        encrypted = self._encrypted.steps(region)
        names = [copy, *bundles, register, *tests, f"{self._last_step}:{region}", *encrypted]
        return self._region_branch(region, names, body)

    def in_parallel(self, *, boot_checks: Iterable[_Branch], regions: Iterable[_Branch]) -> Result:
        """Run all branches at once, and return where the image is public when all have ended.

        When the image is public nowhere, raises the failure that tells whether the job is retried.
        """
        branches = {each.name: each.branch for each in (*boot_checks, *regions)}
        at_once = self._job.settings.limits.regions
        outcomes = self._parallel.fan_out(self._job.branches.counted(branches, at_once), at_once)
        return result_of([each for each in outcomes.values() if each], self._plan.origin)

    def _ended(
        self,
        region: str,
        offer: Callable[[], Sequence[AMI]],
        share_encrypted: Callable[[], Sequence[AMI]],
    ) -> Outcome:
        """Publish a region's tested AMIs, then make and share its encrypted ones, if it gets some.

        What keeps the ones back does not keep the others.
        """
        if not self._encrypted.planned_in(region):
            return Outcome(region, offer())
        published: Sequence[AMI] = []
        encrypted: Sequence[AMI] = []
        failures: list[EC2ServiceException] = []
        try:
            published = offer()
        except EC2ServiceException as error:
            failures.append(error)
        try:
            encrypted = share_encrypted()
        except EC2ServiceException as error:
            self._encrypted.failed(region, error)
            failures.append(error)
        return Outcome(region, published, one_of(failures), encrypted)

    def _region_branch(
        self, region: str, names: Sequence[str], body: Callable[[RecordedSteps], Outcome]
    ) -> _Branch:
        """Return a region's branch; its failure does not end the other regions' branches."""

        def ends(steps: Steps) -> Outcome:
            try:
                with log_fields(region=region):
                    outcome = body(RecordedSteps(steps))
            except EC2ServiceException as error:
                outcome = Outcome(region, [], error)
            if failure := outcome.error:
                self._job.observer.progress(
                    region, last_step(failure), error=str(failure), needs=failure.no_room
                )
            return outcome

        return _Branch(region, Branch(names, ends))

    def _offer(
        self, step: RecordedSteps, region: str, registered: Sequence[AMI], passed: set[str]
    ) -> list[AMI]:
        """Publish or share the AMIs of the boot groups that have passed, and return them."""
        offer = self._region.make_public if self._plan.public else self._region.share
        offering = self._region.resuming(region, self._last_step, offer)
        return step.run(f"{self._last_step}:{region}", offering, region, registered, passed)

    @property
    def _last_step(self) -> str:
        """Return the name of the step by which plain AMIs come into others' reach."""
        return "publish" if self._plan.public else "share"
