"""Write an image into a snapshot of the origin, by an instance or without one."""

from __future__ import annotations

from collections.abc import Callable

from fedimg.aws import snapshots
from fedimg.aws.instance.attempts import Attempts
from fedimg.aws.instance.network import JobNetwork
from fedimg.aws.write import ebs_direct, utility_instance
from fedimg.aws.write.bundle_pass import BesideTheWrite, BundleRecipe
from fedimg.aws.write.ebs_direct import DirectWriter
from fedimg.aws.write.part_orders import ByTheInstance
from fedimg.aws.write.utility_instance import UtilityWriter
from fedimg.exceptions import EC2UtilityException
from fedimg.services.job_context import JobContext

#: What is counted across workers.
UTILITIES = "utility instances"


class Writing:
    """The steps of one upload that write its image."""

    def __init__(self, job: JobContext, origin: str) -> None:
        self._job = job
        self._origin = origin

    def write(
        self,
        job_network: JobNetwork,
        bundle: Callable[[], BundleRecipe | None] = lambda: None,
    ) -> str:
        """Write the image's bytes into a snapshot of the origin, and return its id.

        With the recipe of a `bundle`, that is made of the same bytes.
        """
        job, origin = self._job, self._origin
        attempts = job.attempts(origin, utility_instance.ROLE, job_network)
        with job.explained(origin, "write", EC2UtilityException):
            if job.settings.write_via == "utility":
                job.acquire(origin, UTILITIES, job.settings.limits.utilities)
            if job.rerun:
                if written := self._written_before():
                    return written
                # A write that a crash interrupted is abandoned: its keys are gone.
                attempts.end()
            job.observer.started()
            return self._writer(attempts, bundle).write(job.image)

    def wait_until_complete(self, snapshot: str) -> None:
        """Wait until the snapshot holds all the bytes."""
        job, origin = self._job, self._origin
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
        job, origin = self._job, self._origin
        with job.explained(origin, "release"):
            job.attempts(origin, utility_instance.ROLE, job_network).dismiss()
            job.release(UTILITIES)

    def _written_before(self) -> str | None:
        """Return the snapshot that an earlier run wrote, if it did."""
        job, origin = self._job, self._origin
        return snapshots.find(job.ec2(origin), job.labels) or ebs_direct.recovered(
            job.ec2(origin), job.waiter(origin), job.labels
        )

    def _writer(
        self, attempts: Attempts, bundle: Callable[[], BundleRecipe | None]
    ) -> UtilityWriter | DirectWriter:
        job, origin = self._job, self._origin

        def on_progress(words: str) -> None:
            job.report(origin, "write", words)

        recipe = bundle()
        if job.settings.write_via == "utility":
            return UtilityWriter(
                attempts,
                job.ec2_once(origin),
                on_progress,
                job.observer,
                ByTheInstance(recipe, job.stop, on_progress) if recipe else None,
            )
        return DirectWriter(
            job.ec2(origin),
            ebs_direct.client(job.clients, origin, jobs=job.settings.limits.jobs),
            job.waiter(origin),
            job.labels,
            job.settings,
            on_progress,
            job.observer.written,
            BesideTheWrite(recipe, on_progress) if recipe else None,
        )
