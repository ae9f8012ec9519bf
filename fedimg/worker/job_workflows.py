"""Define the queued workflows of a job: a run that publishes its image, and its clean-up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from fedimg.aws.client.clients import Clients
from fedimg.config import Settings
from fedimg.exceptions import Cancelled, EC2ServiceException, exhausted, for_operator
from fedimg.images import AMI
from fedimg.jobs.durable_steps import DurableSteps, Gate, block_until_exit
from fedimg.jobs.holds import Holds
from fedimg.jobs.outages import Outages
from fedimg.jobs.queue import JobQueue
from fedimg.jobs.recorder import Recorder
from fedimg.jobs.semaphores import Semaphores
from fedimg.jobs.website_message import WebsiteMessage
from fedimg.process.abort import end_exhausted
from fedimg.process.log_context import log_fields
from fedimg.services.ec2 import EC2Service
from fedimg.services.region_addition import Encrypted, RegionAddition
from fedimg.services.site import Coordination, Site
from fedimg.store.added_regions import AddedRegions
from fedimg.store.shares import Shares
from fedimg.store.store import Store
from fedimg.values.audience import Audience
from fedimg.worker.job_cleanup import UNCLEAN, JobCleanup
from fedimg.worker.lease import ALONE
from fedimg.worker.registry import Registry
from fedimg.worker.rescheduling import Rescheduling

#: How many of the last lines that an instance printed are logged; the message on the bus has more.
_LOGGED_LINES = 30
#: Polling interval for a run that another worker has stopped, in seconds.
_STOP_POLL_SECONDS = 0.5

_log = logging.getLogger(__name__)


@dataclass
class _ActiveRun:
    """A run that this process works on."""

    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


class JobWorkflows:
    """The queued workflows of a job: publish and clean.

    A workflow decides only by recorded results of its steps, which have all of its effects.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        queue: JobQueue,
        clients: Clients,
        gate: Gate,
        name: str = ALONE,
    ) -> None:
        self._settings = settings
        self._store = store
        self._queue = queue
        self._clients = clients
        self._registry = Registry(store)
        self._semaphores = Semaphores(store)
        self._outages = Outages(store, settings.ec2.limits)
        self._rescheduling = Rescheduling(store, settings.ec2.limits, self._outages)
        self._name = name
        self._added_regions = AddedRegions(store)
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
                state, reason = "failed", for_operator(error)
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
            self._rescheduling.skip_abandoned_regions(job)
            self._added_regions.settle(job)
            # A repeated clean-up is not the end of a run.
            unknown = not (later or count) and self._store.failed_unknown(job, run)
            complete = state == "complete"
            self._rescheduling.schedule(
                job, run, later, unknown, count, clean=not problem, complete=complete
            )

        self._steps.run("end", end)

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


def _log_failure(job: str, error: Exception) -> None:
    if not isinstance(error, EC2ServiceException):
        _log.error("job %s failed: %s", job, error, exc_info=error)
        return
    lines = error.output.splitlines()[-_LOGGED_LINES:]
    _log.error("job %s failed: %s%s", job, error, "".join(f"\n    | {line}" for line in lines))
