"""Hold what the steps of one upload share: settings, labels, and each region's clients and waiter.

The steps themselves are in fedimg.services.ec2; nothing here decides what happens to an image.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import ParamSpec, TypeVar

from fedimg.aws import public_access, share, tags
from fedimg.aws.client import retrying
from fedimg.aws.client.availability import Watch
from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.errors import explained
from fedimg.aws.client.retrying import Current, RetryingClient
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.instance.attempts import Attempts
from fedimg.aws.instance.network import JobNetwork
from fedimg.aws.public_access import Answers
from fedimg.aws.tags import Labels
from fedimg.exceptions import EC2ServiceException
from fedimg.images import RawImage
from fedimg.progress import HELD, Observer
from fedimg.services.running_branches import RunningBranches
from fedimg.services.site import Coordination, Site
from fedimg.values.audience import Audience

P = ParamSpec("P")
T = TypeVar("T")


class JobContext:
    """One upload of one image.

    Args:
        site: publishes the image.
        shared: what the jobs of all workers share.
        image: the raw image.
        observer: is told what happens.
        watch: returns how a region's availability is told, None where it is not watched.
        stop: set, it ends every wait with Cancelled.
        rerun: whether an earlier run may have left something to go on from.
    """

    def __init__(
        self,
        site: Site,
        shared: Coordination,
        image: RawImage,
        observer: Observer,
        watch: Callable[[str], Watch | None],
        stop: threading.Event,
        *,
        rerun: bool,
    ) -> None:
        self.settings = site.settings
        self.image = image
        self.observer = observer
        self.labels = Labels.of(site.name, image)
        self.rerun = rerun
        self.clients = site.clients
        self.public_access = site.public_access
        self.publishes = site.publish
        self.stop = stop
        #: The branches of steps that run side by side.
        self.branches = RunningBranches()
        self._watch = watch
        self._semaphores = shared.semaphores
        self._holds = shared.holds
        self._waiters: dict[str, Waiter] = {}
        # Regions where a step is taken once more, which may have left something to go on from.
        self._resumed: set[str] = set()
        # The step of each region, for what is reported while EC2 is away.
        self._step: dict[str, str] = {}

    def ec2(self, region: str) -> RetryingClient:
        """Return EC2's client of a region, which outlasts throttling and outages."""
        watch = self._watch(region)
        waiter = Waiter(self.settings.limits, self.stop, self._told_of(region), watch, region)
        if watch is None:
            return RetryingClient(self.clients, region, waiter)
        return RetryingClient(self.clients, region, waiter, keys_at_fault=watch.keys_at_fault)

    def _told_of(self, region: str) -> Callable[[str], None]:
        """Return what tells the observer that a region is waited for, at the step it is at."""

        def report(words: str) -> None:
            self.observer.progress(region, self._step.get(region, "preparing"), words)

        return report

    def s3(
        self, region: str, stop: threading.Event | None = None, *, patience: float | None = None
    ) -> Client:
        """Return S3's client of a region, which outlasts throttling and outages.

        With `patience`, it does so for that many seconds; another `stop` than the job's ends it.
        """
        waiter = self.waiter_of("S3", region, stop, patience=patience)
        return retrying.s3(self.clients, region, waiter, self._watch(region))

    def s3_signing(self, region: str) -> Client:
        """Return S3's client of a region for signed URLs, with the credentials that are current."""
        return Current(self.clients, lambda: self.clients.s3_signing(region))

    def waiter_of(
        self,
        service: str,
        region: str,
        stop: threading.Event | None = None,
        *,
        patience: float | None = None,
    ) -> Waiter:
        """Return a waiter for another service than EC2, as `s3` has one."""
        limits, watch = self.settings.limits, self._watch(region)
        if patience is not None:
            limits = limits.model_copy(update={"outage": min(patience, limits.outage)})
        beside = watch.beside() if watch else None
        return Waiter(limits, stop or self.stop, self._told_of(region), beside, region, service)

    def ec2_once(self, region: str) -> Current:
        """Return EC2's client of a region that tries each call once: for calls that make things."""
        return retrying.once(self.clients, region, self._watch(region))

    def waiter(self, region: str) -> Waiter:
        """Return the waiter of a region, one for all of its steps."""
        if region not in self._waiters:
            watch = self._watch(region)
            told = self._told_of(region)
            self._waiters[region] = Waiter(self.settings.limits, self.stop, told, watch, region)
        return self._waiters[region]

    def answers(self, region: str) -> Answers:
        """Return what a region says of AMIs becoming public; nothing there waits for long."""
        ec2 = retrying.briefly(self.clients, region, self._watch(region))
        return public_access.ask(ec2, self.clients, region)

    def check_sharing(self, region: str, audience: Audience) -> None:
        """Raise EC2ServiceException if a region lets nobody share plain AMIs with an audience."""
        ec2 = retrying.briefly(self.clients, region, self._watch(region))
        share.check_region(ec2, self.clients, region, audience)

    def polling(self, region: str) -> BatchedPolling:
        """Return the polling that all jobs share in a region."""
        return self.clients.polling(region)

    def attempts(self, region: str, role: str, network: JobNetwork) -> Attempts:
        """Return the attempts at a step that needs an instance of this role."""
        return Attempts(
            self.ec2(region),
            self.waiter(region),
            self.labels,
            self.settings,
            network,
            role,
            polling=self.polling(region),
        )

    def kernel(self, region: str) -> str | None:
        """Return the region's PV-GRUB kernel, None where EC2 has none."""
        configured = self.settings.amis.paravirtual_kernels
        return self.clients.kernels.of(self.ec2(region), region, configured)

    def facts(self, tested_in: str) -> dict[str, str]:
        """Return the tags that record the image on EC2 (fedimg.aws.tags)."""
        return tags.facts(self.image, self.observer.disk(), tested_in)

    def may_be_made(self, region: str) -> bool:
        """Return whether an earlier run, or an earlier try of this one, may have made things."""
        return self.rerun or region in self._resumed

    def report(self, region: str, step: str, detail: str = "", needs: int = 0) -> None:
        """Tell the observer which step a region is at, what of it, and what room it `needs`."""
        self._step[region] = step
        self.observer.progress(region, step, detail, needs=needs)

    def explained(
        self,
        region: str,
        step: str,
        kind: type[EC2ServiceException] = EC2ServiceException,
        service: str = "EC2",
    ) -> AbstractContextManager[None]:
        """Give the errors of a service within the image's name, the region and the step."""
        return explained(
            step,
            image=self.image.name,
            region=region,
            step=step,
            exception_type=kind,
            service=service,
        )

    def acquire(self, region: str, kind: str, limit: int) -> None:
        """Wait for the job's slot among `limit` of a kind, those of all workers together.

        Raises EC2ServiceException when `limits.copy` seconds have passed.
        """
        semaphores = self._semaphores
        if semaphores is None:
            return
        try:
            self.waiter(region).until(
                lambda: semaphores.acquire(kind, self.labels.job, limit) or None,
                what=f"a slot among the {limit} {kind} at once",
                limit=self.settings.limits.copy_,
            )
        except EC2ServiceException:
            # Those behind this job are not to wait for one that has given up.
            semaphores.release(kind, self.labels.job)
            raise

    def release(self, kind: str) -> None:
        """Give the job's slot of a kind back."""
        if self._semaphores is not None:
            self._semaphores.release(kind, self.labels.job)

    def report_publish(self, region: str, step: str = "publish") -> None:
        """Report that a region is being published, or shared, once the site is not held.

        The report comes before the check: whoever holds the site sees each region that is past it.
        """
        self.report(region, step)
        while self._holds is not None and (hold := self._holds.current()):
            self.report(region, HELD, str(hold))
            self._holds.wait_for_release(self.stop)
            self.report(region, step)

    def resuming_after_outage(
        self, region: str, step: str, action: Callable[P, T], on_outage: Callable[[], object]
    ) -> Callable[P, T]:
        """Return the action, made to wait for a region that is away while another region goes on.

        When no other goes on, it raises EC2ServiceException that says that the region is away, so
        that the job is not held up. `on_outage` is called before the wait.
        """
        watch = self._watch(region)

        @wraps(action)
        def resuming(*args: P.args, **kwargs: P.kwargs) -> T:
            while watch is not None:
                try:
                    with self.explained(region, step):
                        watch.meet()
                        try:
                            return action(*args, **kwargs)
                        except EC2ServiceException as error:
                            if not error.away:
                                watch.refused(error.__cause__)
                            raise
                except EC2ServiceException as error:
                    if not error.away:
                        raise
                    on_outage()
                    self.observer.progress(region, step, f"waiting: {error.problem}")
                    if not self.branches.wait_while(lambda: _is_away(watch), self.stop):
                        raise
                    self._resumed.add(region)
            return action(*args, **kwargs)

        return resuming


def _is_away(watch: Watch) -> bool:
    try:
        watch.raise_if_away()
    except EC2ServiceException:
        return True
    return False
