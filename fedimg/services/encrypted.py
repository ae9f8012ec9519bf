"""Make the encrypted AMIs of an upload: in each region after the plain ones, of their snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from fedimg.aws import copies, share
from fedimg.aws.instance.network import JobNetwork
from fedimg.aws.plan import Plan
from fedimg.exceptions import Cancelled, EC2ServiceException
from fedimg.images import AMI
from fedimg.progress import PUBLIC
from fedimg.services.boot_checks import BootChecks
from fedimg.services.job_context import JobContext
from fedimg.services.recorded import RecordedSteps
from fedimg.services.region_steps import RegionSteps

T = TypeVar("T")

#: Polling interval of a wait for the origin, in seconds.
_POLL_SECONDS = 1.0


class EncryptedAMIs:
    """The encrypted AMIs of one upload, which are never public.

    A region's own snapshot is copied, not the origin's: no bytes go from region to region twice,
    and the origin needs no other way. What fails in the origin is made nowhere, as it is booted
    there alone.
    """

    def __init__(
        self,
        job: JobContext,
        planned: Plan,
        region_steps: RegionSteps,
        boot_checks: BootChecks,
    ) -> None:
        self._job = job
        self._plan = planned
        self._region = region_steps
        self._boot_checks = boot_checks
        self._originals: Future[list[AMI]] = Future()
        self._verdict: Future[None] = Future()

    def planned_in(self, region: str) -> bool:
        """Return whether a region gets encrypted AMIs."""
        return bool(self._plan.encrypted.get(region))

    def steps(self, region: str) -> list[str]:
        """Return the steps that `share` may take in a region; none without encrypted AMIs."""
        if not self.planned_in(region):
            return []
        boots = [
            self._boot_checks.step(region, ami_type)
            for ami_type in self._plan.tested_encrypted
            if region == self._plan.origin
        ]
        return [
            f"encrypt:{region}",
            f"register-encrypted:{region}",
            *boots,
            f"share-encrypted:{region}",
        ]

    def share(
        self,
        step: RecordedSteps,
        region: str,
        snapshot: str,
        passed: set[str],
        network: JobNetwork | None = None,
    ) -> list[AMI]:
        """Make a region's encrypted AMIs of its plain snapshot, and share them when they may be.

        `passed` are the boot groups that have passed as plain AMIs in this region; one that failed
        here alone is not shared here. In the origin they boot in a `network`. Return what is in
        the audience's reach. Raises EC2ServiceException when that fails, here or in the origin,
        and Cancelled when the image has failed.
        """
        encrypting = self._region.resuming(region, "encrypt", self._encrypt)
        encrypted = step.run(f"encrypt:{region}", encrypting, region, snapshot)
        registering = self._region.resuming(region, "register-encrypted", self._register)
        originals = [] if region == self._plan.origin else self._of_origin(self._originals)
        registered = step.run(
            f"register-encrypted:{region}", registering, region, encrypted, originals
        )
        if region == self._plan.origin:
            self._originals.set_result(registered)
            if network is not None:
                self._boot_checks.boot_encrypted(step, registered, network)
            self._verdict.set_result(None)
        self._of_origin(self._verdict)
        failed_here = self._boot_checks.passed() - passed
        booted = {ami_type.boot_group for ami_type in self._plan.tested_encrypted}
        good = passed | (booted - failed_here)
        sharing = self._region.resuming(region, "share-encrypted", self._share)
        # A site that is not public has another step with the name share.
        return step.run(f"share-encrypted:{region}", sharing, region, registered, good)

    def failed(self, region: str, error: BaseException) -> None:
        """Note that a region has no encrypted AMIs; after the origin's, no other can have some."""
        if region != self._plan.origin:
            return
        for each in (self._originals, self._verdict):
            if not each.done():
                each.set_exception(error)

    def tested_before(self, originals: Sequence[AMI]) -> None:
        """Take the origin's encrypted AMIs as tested: an earlier run of the job shared them."""
        self._originals.set_result(list(originals))
        self._verdict.set_result(None)

    def _of_origin(self, awaited: Future[T]) -> T:
        """Wait for what the origin's steps find. Raises EC2ServiceException if they have failed."""
        # What has failed may be a TimeoutError, too, as that of a wait is.
        while not awaited.done():
            if self._job.stop.is_set():
                raise Cancelled
            wait([awaited], _POLL_SECONDS)
        try:
            return awaited.result()
        except EC2ServiceException as error:
            raise EC2ServiceException(
                f"no encrypted AMIs are shared, as they were not tested in "
                f"{self._plan.origin}: {error.problem}",
                later=error.may_pass,
            ) from error
        except Exception as error:
            raise Cancelled("there are no encrypted AMIs in the origin") from error

    def _encrypt(self, region: str, snapshot: str) -> str:
        """Copy a region's snapshot to an encrypted one there, and return its id when complete.

        Raises EC2ServiceException, for a person to act on, when EC2 cannot use the region's key,
        and before anything is copied when the audience is larger than a further region's quota.
        """
        self._job.report(region, "encrypt")
        if region != self._plan.origin:
            with self._job.explained(region, "encrypt"):
                share.check_quota(self._job.clients, region, self._plan.audience)
        source = copies.Source(region, snapshot, self._plan.keys[region])
        return self._region.copied(region, "encrypt", source)

    def _register(self, region: str, snapshot: str, originals: Sequence[AMI]) -> list[AMI]:
        """Register a region's encrypted AMIs, private, report them, and return them.

        `originals` are those of the origin, of which the others are the copies.
        """
        job = self._job
        job.report(region, "register-encrypted")
        with job.explained(region, "register-encrypted"):
            registered = self._region.register_types(region, self._plan.encrypted[region], snapshot)
        sources = {ami.type: ami for ami in originals}
        for ami in registered:
            if region == self._plan.origin:
                job.observer.registered(ami)
            else:
                job.observer.copied(ami, sources[ami.type])
        return registered

    def _share(self, region: str, registered: Sequence[AMI], passed: set[str]) -> list[AMI]:
        """Share a region's encrypted AMIs, without the boot groups that failed."""
        if region == self._plan.origin:
            # Not before: the other regions' AMIs are shared when these have booted.
            with self._job.explained(region, "share-encrypted"):
                share.check_quota(self._job.clients, region, self._plan.audience)
        shared = self._region.share(region, registered, passed)
        if self._plan.public and self._job.publishes:
            # The region ends as its plain AMIs do.
            self._job.report(region, PUBLIC, f"{len(shared)} encrypted AMIs are private")
        return shared
