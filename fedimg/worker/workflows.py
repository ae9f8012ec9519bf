"""Define the queued workflows: intake of an entry, a run of a job, and its clean-up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from fedimg.aws.client.clients import Clients
from fedimg.aws.client.error_codes import UNKNOWN_RUNS
from fedimg.config import Settings
from fedimg.exceptions import Cancelled, EC2ServiceException, exhausted
from fedimg.images import AMI, RawImage
from fedimg.intake import image_selection
from fedimg.intake.deferred import Defer, DeferredEntries, source_name
from fedimg.intake.image_selection import Decisions, Sources
from fedimg.jobs.age_exemptions import AgeExemptions
from fedimg.jobs.durable_steps import DurableSteps, Gate, block_until_exit
from fedimg.jobs.entry_images import EntryImages
from fedimg.jobs.holds import Holds
from fedimg.jobs.outages import Outages
from fedimg.jobs.queue import JobQueue
from fedimg.jobs.recorder import Recorder
from fedimg.jobs.retries import RetrySchedule
from fedimg.jobs.semaphores import Semaphores
from fedimg.jobs.website_message import WebsiteMessage
from fedimg.process.abort import end_exhausted
from fedimg.process.log_context import log_fields
from fedimg.progress import (
    AWAY,
    CONTINUED,
    DONE,
    FAILED_FOR_GOOD,
    LEFT_OUT,
    OVER_QUOTA,
)
from fedimg.services.ec2 import EC2Service
from fedimg.services.recorded import RecordedSteps
from fedimg.services.region_addition import Encrypted, RegionAddition
from fedimg.services.site import Coordination, Site
from fedimg.store.added_regions import AddedRegions
from fedimg.store.rows import RegionRow
from fedimg.store.shares import Shares
from fedimg.store.store import Store
from fedimg.untrusted.failures import of_endpoint
from fedimg.values.audience import Audience
from fedimg.worker.job_cleanup import UNCLEAN, JobCleanup
from fedimg.worker.lease import ALONE
from fedimg.worker.registry import Registry

#: How many of the last lines that an instance printed are logged; the message on the bus has more.
_LOGGED_LINES = 30
#: Polling interval for a run that another worker has stopped, in seconds.
_STOP_POLL_SECONDS = 0.5

#: The last steps of regions because of which a job is not retried.
_SETTLED = (*DONE, LEFT_OUT, FAILED_FOR_GOOD, *CONTINUED)

_log = logging.getLogger(__name__)


@dataclass
class _ActiveRun:
    """A run that this process works on."""

    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


class Workflows:
    """The three queued workflows: intake, publish and clean.

    A workflow decides only by recorded results of its steps, which have all of its effects.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        queue: JobQueue,
        clients: Clients,
        sources: Sources,
        gate: Gate,
        name: str = ALONE,
    ) -> None:
        self._settings = settings
        self._store = store
        self._queue = queue
        self._clients = clients
        self._sources = sources
        self._retries = RetrySchedule(store)
        self._registry = Registry(store)
        self._semaphores = Semaphores(store)
        self._outages = Outages(store, settings.ec2.limits)
        self._name = name
        self._deferred = DeferredEntries(store)
        self._added_regions = AddedRegions(store)
        self._age_exemptions = AgeExemptions(store)
        self._entry_images = EntryImages(store)
        self._active: dict[tuple[str, int], _ActiveRun] = {}
        self._cleanup = JobCleanup(settings, store, clients, self._outages)
        self._website = WebsiteMessage(store, settings)
        self._steps = DurableSteps(gate)
        #: When set, intake stops to wait for Koji and for composes, and jobs for the hold's end.
        self.stopping = threading.Event()
        self._holds = Holds(store, self.stopping)
        self._site = Site(settings.ec2, settings.site, settings.checks, clients)
        self._shared = Coordination(self._semaphores, self._outages, self._holds)

    def stop_runs(self, runs: Iterable[tuple[str, int]]) -> None:
        """Stop runs, by job and number, that another worker has to clean up after."""
        for job, run in runs:
            if active := self._active.get((job, run)):
                active.stop.set()

    def intake(self, entry: str) -> list[str]:
        """Queue a job for each image of a task, build or compose; return the jobs' names."""
        images = RecordedSteps(self._steps).run("ask", self._lookup, entry)
        submitted = [
            self._steps.run(f"submit:{image.job}", partial(self._submit, entry, image))
            for image in images
        ]
        # Outside of the step, which is repeated if the worker dies before its result is recorded.
        if not any(row.entry == entry for row in self._deferred.all()):
            self._age_exemptions.drop(entry)
        return [job for job in submitted if job]

    def _lookup(self, entry: str) -> list[RawImage]:
        """Return the entry's images; none if the lookup is deferred or finally failed."""

        def record(decided: Decisions) -> None:
            self._entry_images.record(
                entry,
                {image.file_name for image in decided.chosen},
                {each.name for each in decided.left_out if each.by_setting},
            )

        try:
            images = image_selection.images_to_publish(
                entry,
                self._sources,
                self._settings,
                self.stopping,
                any_age=self._age_exemptions.has(entry),
                on_decided=record,
            )
        except Defer as error:
            deferred = self._deferred.postpone(entry, error.why, str(error))
            if not deferred.hopeless:
                _log.warning(
                    "%s waits for %s, retries in %g s: %s",
                    entry,
                    source_name(entry),
                    deferred.pause,
                    error,
                )
                return []
            _log.warning("%s is dropped after %g s: %s", entry, deferred.waited, error)
            images = []
        self._deferred.settle(entry)
        return images

    def _submit(self, entry: str, image: RawImage) -> str | None:
        job = self._queue.submit(image)
        if job is not None:
            _log.info("%s: job %s queued", entry, job, extra={"job": job, "entry": entry})
        elif withdrawn := self._store.withdrawn(image):
            _log.info(
                "%s: %s gets no job, as it is the image of job %s, which is withdrawn; 'fedimg "
                "restore' comes first",
                entry,
                image.name,
                withdrawn,
            )
        elif twin := self._store.twin(image):
            _log.info(
                "%s: %s gets no job, as job %s publishes the same file",
                entry,
                image.name,
                twin,
            )
        else:
            _log.info("%s: job %s exists already", entry, image.job)
        return job

    def publish(self, job: str, run: int) -> None:
        """Run a job: publish its image, and record the result and its reasons."""
        with log_fields(job=job):
            self._run(job, run)

    def _run(self, job: str, run: int) -> None:
        row = self._store.job(job)
        if row is None:
            return
        with self._working_on(job, run) as stop:
            if row.state == "queued":
                self._wait_while_held(stop)
            # After the run is registered, so that its clean-up can find and stop it.
            attempt = self._store.begin(job, run)
            if attempt is None:
                return
            record = Recorder(self._store, row.image, run, self._settings.ec2.origin)
            doubted: set[str] = set()
            added = self._added_regions.of(job, run)
            try:
                if added:
                    addition = RegionAddition(self._site, self._shared, stop=stop, doubted=doubted)
                    originals, audience = self._originals(job)
                    result = addition.add(
                        row.image,
                        added,
                        originals,
                        record,
                        self._steps,
                        audience,
                        self._encrypted(job),
                    )
                else:
                    site = self._site_of(job)
                    service = EC2Service(site, self._shared, stop=stop, doubted=doubted)
                    result = service.upload(row.image, record, self._steps, rerun=attempt > 1)
            except Cancelled:
                _log.info("job %s: cancelled", job)
                return
            except Exception as error:
                if exhausted(error):
                    end_exhausted(error)
                state, reason = "failed", _told(error)
                later = isinstance(error, EC2ServiceException) and error.later
                unknown = isinstance(error, EC2ServiceException) and bool(error.unknown)
                waits = isinstance(error, EC2ServiceException) and error.continues
                if added or waits or self._store.ever_public(job):
                    # The image did not fail: it is public elsewhere, or waits.
                    state, later = "incomplete", later or waits
                    unforeseen = not isinstance(error, EC2ServiceException)
                    _log.warning("job %s: %s", job, reason, exc_info=unforeseen)
                else:
                    _log_failure(job, error)
                    self._steps.run("announce:failed", partial(record.failed, error))
            else:
                reasons = [f"{region}: {why}" for region, why in result.failed.items()]
                state, reason = ("incomplete", "\n".join(reasons)) if reasons else ("complete", "")
                # Where all failures are final, another run would fail like this one.
                later, unknown = bool(result.later), bool(result.unknown)
                _log.info("job %s: %s", job, state)
            if run == attempt == 1:
                self._cleanup.undisturbed[job] = doubted
            self._steps.run(
                "finish",
                lambda: self._queue.finish(
                    job, run, state, reason or None, later=later, unknown=unknown
                ),
            )

    def _site_of(self, job: str) -> Site:
        """Return the site, with whom the job's AMIs are for if an earlier run decided that.

        A job is public or private in all regions, and its audience may have been changed since.
        """
        public, audience = Shares(self._store).of_job(job)
        changed: dict[str, object] = {} if public is None else {"public": public}
        if audience is not None:
            changed["share"] = self._site.settings.share.of(audience)
        if not changed:
            return self._site
        return replace(self._site, settings=self._site.settings.model_copy(update=changed))

    def _originals(self, job: str) -> tuple[list[AMI], Audience | None]:
        """Return the job's plain AMIs in the origin that others can use, by the record.

        Beside them is with whom they are shared; None where they are public.
        """
        found = Shares(self._store).in_reach(job, self._settings.ec2.origin)
        rows = [row for row in found if not row.encrypted]
        audience = rows[0].shared_with if rows else None
        originals = [AMI(row.ami, row.name, row.region, row.type, row.snapshot) for row in rows]
        return originals, audience

    def _encrypted(self, job: str) -> Encrypted | None:
        """Return the job's encrypted AMIs in the origin that were shared, by the record."""
        found = Shares(self._store).in_reach(job, self._settings.ec2.origin)
        rows = [row for row in found if row.encrypted]
        if not rows:
            return None
        its = [AMI(row.ami, row.name, row.region, row.type, row.snapshot) for row in rows]
        return Encrypted(its, rows[0].shared_with or Audience())

    def _wait_while_held(self, stop: threading.Event) -> None:
        """Wait until the site is not held or the run is cancelled; never return while stopping."""
        try:
            self._holds.wait_for_release(stop)
        except Cancelled:
            if self.stopping.is_set():
                # A return would end the run's workflow.
                block_until_exit()

    def clean(
        self,
        job: str,
        run: int,
        state: str,
        error: str | None,
        later: bool = False,
        count: int = 0,
    ) -> None:
        """Remove what a run made and did not publish, then set the job's `state`.

        With `later` the job is retried. `count` is 0 for the clean-up that ends the run, and the
        number of the repetition otherwise.
        """
        if active := self._active.get((job, run)):
            active.stop.set()
            active.ended.wait()
        # This ends: no worker starts the run again, and failover removes the runs of a dead worker.
        while self._registry.stop_elsewhere(self._name, job, run):
            time.sleep(_STOP_POLL_SECONDS)
        again = later or self._store.failed_unknown(job, run)
        problem = self._steps.run(
            "clean", lambda: self._cleanup.run(job, state, count=count, again=again)
        )
        self._cleanup.undisturbed.pop(job, None)
        before = [line for line in (error or "").splitlines() if not line.startswith(UNCLEAN)]
        reason = "\n".join([*before, *([problem] if problem else [])])

        def end() -> None:
            self._website.announce(job)
            self._store.end(job, run, state, reason or None)
            self._semaphores.release_all(job)
            self._skip_abandoned_regions(job)
            self._added_regions.settle(job)
            # A repeated clean-up is not the end of a run.
            unknown = not (later or count) and self._store.failed_unknown(job, run)
            complete = state == "complete"
            self._schedule(job, run, later, unknown, count, clean=not problem, complete=complete)

        self._steps.run("end", end)

    def _schedule(
        self,
        job: str,
        run: int,
        later: bool,
        unknown: bool,
        count: int,
        *,
        clean: bool,
        complete: bool,
    ) -> None:
        """Schedule the job's retry or its next clean-up, if it needs one."""
        limits = self._settings.ec2.limits
        unavailable = self._unavailable_regions(job)
        regions = row.regions if (row := self._store.job(job)) else []
        # A run that failed before it came to a region does not wait for that region.
        current = self._store.regions_of_run(job, run) if later else set()
        continued = [each for each in regions if each.step in CONTINUED and each.region in current]
        others = any(each.step not in _SETTLED for each in regions)
        if continued and not others:
            self._continue(job, run, continued)
        elif (later or unknown) and (retry := self._retries.run(job, run, limits, unknown=unknown)):
            _log.info(
                "job %s: retries in %.0f s (retry %d of %d)",
                job,
                retry.due - time.time(),
                retry.unknown if unknown else retry.count,
                min(UNKNOWN_RUNS, limits.retries) if unknown else limits.retries,
            )
        elif continued:
            self._continue(job, run, continued)
        elif unavailable or not clean or not (complete or count):
            self._retries.clean_up(job, run, count, limits)
        else:
            self._retries.forget(job)

    def _continue(self, job: str, run: int, regions: Sequence[RegionRow]) -> None:
        """Schedule the run that continues the job in regions that are away or without room."""
        refused = any(each.step == OVER_QUOTA for each in regions)
        self._retries.run_when_back(job, run, self._settings.ec2.limits, refused=refused)
        for each in regions:
            what = "is available again" if each.step == AWAY else "has room for its AMIs"
            _log.info("job %s: continues when %s %s", job, each.region, what)

    def _unavailable_regions(self, job: str) -> list[str]:
        """Return the job's regions that can only be cleaned up after their outages."""
        row = self._store.job(job)
        outages = [self._outages.away(each.region) for each in (row.regions if row else ())]
        return [outage.region for outage in outages if outage and outage.due is not None]

    def _skip_abandoned_regions(self, job: str) -> None:
        """Mark the job's regions in which fedimg no longer publishes as left out."""
        row = self._store.job(job)
        for each in row.regions if row else ():
            outage = self._outages.away(each.region)
            if each.step == AWAY and outage and outage.due is None:
                detail = "'fedimg cleanup' lists what the job may have left there"
                self._store.set_region(job, each.region, step=LEFT_OUT, detail=detail)

    @contextmanager
    def _working_on(self, job: str, run: int) -> Iterator[threading.Event]:
        active = self._active[job, run] = _ActiveRun()
        self._registry.begin(self._name, job, run)
        try:
            yield active.stop
        finally:
            self._site.public_access.release(job)
            self._registry.end(self._name, job, run)
            del self._active[job, run]
            active.ended.set()


def _told(error: Exception) -> str:
    """Return an error for its operator: our own text, or a library's in plain words."""
    return str(error) if isinstance(error, EC2ServiceException) else of_endpoint(error)


def _log_failure(job: str, error: Exception) -> None:
    if not isinstance(error, EC2ServiceException):
        _log.error("job %s failed: %s", job, error, exc_info=error)
        return
    lines = error.output.splitlines()[-_LOGGED_LINES:]
    _log.error("job %s failed: %s%s", job, error, "".join(f"\n    | {line}" for line in lines))
