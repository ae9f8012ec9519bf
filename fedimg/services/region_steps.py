"""The steps of one region: copy the snapshot, register its AMIs, make them public."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ParamSpec, TypeVar

from fedimg.aws import ami_options, amis, copies, publish, share
from fedimg.aws.client.errors import quota_met
from fedimg.aws.instance import network
from fedimg.aws.instance.network import JobNetwork
from fedimg.aws.plan import Plan
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI, AMIType, Virtualization
from fedimg.parallel import run_parallel
from fedimg.progress import PUBLIC, REHEARSED, SHARED, last_step
from fedimg.services.job_context import JobContext

P = ParamSpec("P")
T = TypeVar("T")

#: What is counted across workers, for each region.
COPIES = "copies"


class RegionSteps:
    """The effects of one upload in its regions; `doubted` gets those with one copy too many."""

    def __init__(self, job: JobContext, planned: Plan, doubted: set[str]) -> None:
        self._job = job
        self._plan = planned
        self._doubted = doubted

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

    def check_any_room(self) -> None:
        """Raise EC2ServiceException when the image can be published in no planned region.

        Each region's reason is reported. The further regions are asked only if the origin cannot
        have public AMIs. Private AMIs are made from what the origin lets share.
        """
        job, origin = self._job, self._plan.origin
        if (problem := self._room_problem(origin)) is None:
            return
        if not self._plan.public:
            raise problem
        if job.public_access.encrypts(origin):
            # So are the copies of what is written there.
            raise problem
        further = self._plan.further
        asked = {region: partial(self._room_problem, region) for region in further}
        problems = {origin: problem, **run_parallel(asked, job.settings.limits.regions)}
        reasons = {region: each for region, each in problems.items() if each is not None}
        if len(reasons) < len(problems):
            return
        for region, each in reasons.items():
            step = last_step(each)
            job.observer.progress(region, step, error=str(each), needs=each.no_room)
        # Where a quota or an outage alone is in the way, the job continues by itself.
        found = list(reasons.values())
        away = next((each for each in found if each.away), problem)
        raise next((each for each in found if each.no_room), away)

    def _room_problem(self, region: str) -> EC2ServiceException | None:
        """Return why a region cannot have the public AMIs; None if their room is reserved."""
        try:
            self._reserve_room(region)
        except EC2ServiceException as error:
            return error
        return None

    def _reserve_room(self, region: str) -> None:
        """Reserve the room for a region's public AMIs. Raises EC2ServiceException without it.

        Private AMIs need none; there, it is what keeps their audience from them that is raised.
        """
        job, amis = self._job, len(self._plan.types[region])
        if not self._plan.public:
            with job.explained(region, "copy"):
                job.check_sharing(region, self._plan.audience)
            return
        with job.explained(region, "copy"):
            job.public_access.reserve(region, job.labels.job, amis, lambda: job.answers(region))

    def copy(self, region: str, snapshot: str) -> str:
        """Copy the origin's snapshot to a region, wait until that is complete, return its id.

        Raises EC2ServiceException, before anything is copied, when no AMI can become public there.
        """
        job = self._job
        needs = len(self._plan.types[region]) if self._plan.public else 0
        job.report(region, "copy", needs=needs)
        self._reserve_room(region)
        return self.copied(region, "copy", copies.Source(self._plan.origin, snapshot))

    def copied(self, region: str, step: str, source: copies.Source) -> str:
        """Copy a snapshot to a region when its copies have room, wait, and return the copy's id."""
        job = self._job
        with job.explained(region, step):
            job.acquire(region, f"{COPIES}:{region}", job.settings.limits.copies)
            copied = copies.copied(
                job.ec2(region),
                job.ec2_once(region),
                job.waiter(region),
                job.labels,
                source,
                find_first=job.may_be_made(region),
                doubted=lambda: self._doubted.add(region),
                limits=job.settings.limits,
                polling=job.polling(region),
            )
            job.release(f"{COPIES}:{region}")
        return copied

    def resuming(self, region: str, step: str, action: Callable[P, T]) -> Callable[P, T]:
        """Return an action that is repeated after an outage, in which it holds no room to copy."""
        return self._job.resuming_after_outage(
            region, step, action, on_outage=lambda: self._job.release(f"{COPIES}:{region}")
        )

    def register_copies(
        self, region: str, snapshot: str, originals: Sequence[AMI], bundle: str = ""
    ) -> list[AMI]:
        """Register a further region's AMIs, and report each as the copy of its original."""
        with self._job.explained(region, "register"):
            registered = self.register(region, snapshot, bundle)
        sources = {ami.type: ami for ami in originals}
        for ami in registered:
            self._job.observer.copied(ami, sources[ami.type])
        return registered

    def register(self, region: str, snapshot: str, bundle: str = "") -> list[AMI]:
        """Register the AMI types that are planned in a region, private, and wait for them.

        Instance-store AMIs are made from a `bundle`. Encrypted types are not among these.
        """
        self._job.report(region, "register")
        return self.register_types(region, self._plan.types[region], snapshot, bundle)

    def register_types(
        self, region: str, ami_types: Sequence[AMIType], snapshot: str, bundle: str = ""
    ) -> list[AMI]:
        """Register AMIs of these types, private, and wait for them."""
        job = self._job
        kernel = self._kernel(region, ami_types)
        possible = [
            ami_type
            for ami_type in ami_types
            if kernel or ami_type.virtualization is Virtualization.HVM
        ]
        if not possible:
            raise EC2ServiceException("no AMI can be made: EC2 has no PV-GRUB kernel in the region")
        registered = amis.register_all(
            job.ec2(region),
            job.waiter(region),
            job.labels,
            possible,
            amis.Basis(job.image, region, snapshot, kernel, job.settings.amis, bundle),
        )
        ready = amis.available(
            job.ec2(region),
            job.waiter(region),
            registered,
            limit=job.settings.limits.image,
            partition=job.clients.partition(region),
            polling=job.polling(region),
        )
        ami_options.specify(job.ec2(region), job.waiter(region), ready)
        return ready

    def _kernel(self, region: str, ami_types: Sequence[AMIType]) -> str | None:
        """Return the region's PV-GRUB kernel, if PV AMIs are among these and EC2 has one.

        A region that did not answer when this was planned is asked now.
        """
        planned = self._plan.kernels.get(region)
        virtualizations = {ami_type.virtualization for ami_type in ami_types}
        if planned or Virtualization.PARAVIRTUAL not in virtualizations:
            return planned
        return self._job.kernel(region)

    def make_public(self, region: str, registered: Sequence[AMI], passed: set[str]) -> list[AMI]:
        """Make a region's snapshot and AMIs public, without the boot groups that failed."""
        return self._offer(region, registered, passed, "publish", PUBLIC, self._publish)

    def share(self, region: str, registered: Sequence[AMI], passed: set[str]) -> list[AMI]:
        """Share a region's snapshot and AMIs with the plan's audience, as `make_public` does."""
        return self._offer(region, registered, passed, "share", SHARED, self._share)

    def _offer(
        self,
        region: str,
        registered: Sequence[AMI],
        passed: set[str],
        step: str,
        last: str,
        offer: Callable[[str, Sequence[AMI]], None],
    ) -> list[AMI]:
        job = self._job
        job.report_publish(region, step)
        good = [ami for ami in registered if ami.type.boot_group in passed]
        dropped = [ami for ami in registered if ami not in good]
        with job.explained(region, step):
            for ami in dropped:
                amis.deregister(job.ec2(region), ami)
                job.observer.dropped(ami, "its type failed the boot check")
            if good and job.publishes:
                offer(region, good)
        types = ", ".join(sorted({str(ami.type) for ami in dropped}))
        last = last if job.publishes else REHEARSED
        told = [f"with {self._plan.audience}"] if last == SHARED else []
        told += [f"without {types}: not booted"] if types else []
        job.report(region, last, "; ".join(told))
        return good

    def _share(self, region: str, good: Sequence[AMI]) -> None:
        job = self._job
        for source in dict.fromkeys(ami.snapshot for ami in good):
            share.share_all(
                job.ec2(region),
                job.waiter(region),
                source,
                [ami for ami in good if ami.snapshot == source],
                self._plan.audience,
                job.observer,
                job.facts(self._plan.origin),
            )

    def _publish(self, region: str, good: Sequence[AMI]) -> None:
        """Make AMIs and their snapshot public; say so where a quota keeps some of them private."""
        job = self._job
        facts = job.facts(self._plan.origin)
        if region == self._plan.origin:
            self._reserve_room(region)
        try:
            for source in dict.fromkeys(ami.snapshot for ami in good):
                publish.publish_all(
                    job.ec2(region),
                    job.waiter(region),
                    source,
                    [ami for ami in good if ami.snapshot == source],
                    job.observer,
                    facts,
                )
        except Exception as error:
            if not quota_met(error):
                raise
            # The answers are asked for anew, with what has become public meanwhile.
            known = job.public_access.refused(
                region, job.labels.job, len(good), lambda: job.answers(region)
            )
            if known is not None:
                raise known from error
            try:
                with job.explained(region, "publish"):
                    raise
            except EC2ServiceException as failure:
                failure.over_quota = True
                raise
        job.public_access.published(region, job.labels.job, [ami.id for ami in good])
