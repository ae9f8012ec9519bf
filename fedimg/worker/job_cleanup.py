"""Clean up after a run of a job: remove what it made and did not publish."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from contextlib import suppress

from fedimg.aws import cleanup, regions, resources, survey
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.waiter import Waiter
from fedimg.config import Limits, Settings
from fedimg.exceptions import EC2ServiceException, exhausted, for_operator
from fedimg.jobs.outages import Outages
from fedimg.progress import DONE, NO_ROOM, OVER_QUOTA
from fedimg.store.store import Store

#: How the line about a failed clean-up begins in a job's error.
UNCLEAN = "clean-up failed: "
#: What is kept of a job in a region where it waits for room.
_KEPT = resources.OF_AMIS

_log = logging.getLogger(__name__)


class JobCleanup:
    """The clean-ups of one worker's jobs."""

    def __init__(
        self, settings: Settings, store: Store, clients: Clients, outages: Outages
    ) -> None:
        self._settings = settings
        self._store = store
        self._clients = clients
        self._outages = outages
        #: Jobs whose first run this process has done from its start to its end, and the regions
        #: where their snapshot may have been copied twice.
        self.undisturbed: dict[str, set[str]] = {}

    def run(self, job: str, state: str, *, count: int, again: bool) -> str | None:
        """Clean up, repeatedly while that fails for `limits.settle` s; return the last error.

        `state` is how the job's run ended; a failed one is retried `again`. `count` is 0 for the
        clean-up that ends the run, and the number of the repetition otherwise.
        """
        limits = _without_outage(self._settings.ec2.limits)
        problems: list[str] = []

        def clean() -> bool | None:
            problem = self._clean(job, state, self._keeps(job, state, count, again))
            problems[:] = [problem] if problem else []
            return None if problem else True

        with suppress(EC2ServiceException):
            Waiter(limits, threading.Event()).until(
                clean, what="the job's clean-up", limit=limits.settle
            )
        return problems[0] if problems else None

    def _keeps(self, job: str, state: str, count: int, again: bool) -> set[str]:
        """Return the regions where what a job made is kept, as it waits there for room.

        A failed run keeps it if the job is retried `again`.
        """
        row = self._store.job(job)
        waits = state == "incomplete" or (state == "failed" and again)
        if row is None or not waits or count or self._store.withdrawn(row.image):
            return set()
        return {each.region for each in row.regions if each.step in (NO_ROOM, OVER_QUOTA)}

    def _clean(self, job: str, state: str, kept: Collection[str]) -> str | None:
        """Remove what the job left, but for images and snapshots in the regions `kept`.

        Return why that failed, or None.
        """
        ec2 = self._settings.ec2
        row = self._store.job(job)
        steps = {region.region: region.step for region in (row.regions if row else ())}
        spared: set[str] = set()
        if state == "failed" and ec2.keep_failed_amis:
            spared |= set(resources.OF_AMIS)
        if state == "failed" and ec2.keep_failed_instances:
            spared |= {resources.INSTANCE, resources.VOLUME, resources.SECURITY_GROUP}
        private = [ami for ami in self._store.amis() if ami.job == job and not ami.public]
        problems: list[Exception] = []

        def unseen(error: EC2ServiceException) -> None:
            # Collected, as an error in one region must not keep resources alive in another.
            if regions.is_selected(error.region, ec2):
                problems.append(error)
            else:
                _log.warning(
                    "job %s: cannot clean up in a region where fedimg no longer publishes; 'fedimg "
                    "cleanup' lists what may be left there: %s",
                    job,
                    error,
                )

        try:
            leftovers = survey.leftovers(
                self._clients,
                self._settings.site,
                # An unavailable region is cleaned up after its outage.
                sorted(name for name in {ec2.origin, *steps} if not self._outages.away(name)),
                job=job,
                resource_types=lambda region: self._may_hold(job, region, steps.get(region)),
                recorded=survey.recorded(private),
                # EC2 may still show a resource as private that became public a moment ago.
                published=self._store.ever_public(job),
                bucket=ec2.instance_store.bucket_in,
                unseen=unseen,
            )
            cleanup.remove(
                self._clients,
                Waiter(_without_outage(ec2.limits), threading.Event()),
                [
                    item
                    for item in leftovers
                    if item.resource_type not in spared
                    and not (item.region in kept and item.resource_type in _KEPT)
                ],
                limit=ec2.limits.instance_gone,
                removed=self._removed,
            )
        except Exception as error:
            if exhausted(error):
                raise
            # Any error is recorded, as the job has to end, and its error has to tell the reason.
            problems.append(error)
        if not problems:
            self._forget_removed(job, spared, kept)
            return None
        told = "; ".join(map(for_operator, problems)).replace("\n", " ")
        text = f"{UNCLEAN}{told}; run 'fedimg cleanup'"
        _log.error("job %s: %s", job, text)
        return text

    def _may_hold(self, job: str, region: str, step: str | None) -> Collection[str]:
        """Return the types of the resources that the job can have left in a region at this step.

        After a crash, a retry, or a change of the origin between two runs these are all types;
        otherwise the fewest, to save calls to EC2.
        """
        ec2 = self._settings.ec2
        if job not in self.undisturbed or region in (ec2.origin, *ec2.test.regions):
            return resources.RESOURCE_TYPES
        if step not in DONE:
            return resources.OF_AMIS
        # In a region whose AMIs are public, only a second copy of the snapshot can be left.
        return (resources.SNAPSHOT,) if region in self.undisturbed[job] else ()

    def _forget_removed(self, job: str, spared: set[str], kept: Collection[str]) -> None:
        """Forget the job's AMIs that a clean-up removed, also before a crash."""
        published = self._store.ever_public(job)
        for ami in self._store.amis():
            if ami.region in kept:
                continue
            if self._outages.away(ami.region) or not regions.is_selected(
                ami.region, self._settings.ec2
            ):
                # The clean-up may have skipped this region.
                continue
            if ami.job == job and ami.ami not in published and resources.IMAGE not in spared:
                self._store.forget_ami(ami.ami, ami.region)

    def _removed(self, item: resources.Leftover) -> None:
        _log.info(
            "job %s: removed %s %s in %s",
            item.job,
            item.resource_type,
            item.id,
            item.region,
            extra={"job": item.job, "region": item.region},
        )
        if item.resource_type == resources.IMAGE:
            self._store.forget_ami(item.id, item.region)


def _without_outage(limits: Limits) -> Limits:
    """Shorten the wait for an unavailable region: a clean-up is repeated after the outage."""
    return limits.model_copy(update={"outage": limits.settle})
