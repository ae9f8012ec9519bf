"""What the queues hold: entries and jobs, each run durably and cleaned up behind."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from fedimg.aws import cleanup, regions
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.error_codes import UNKNOWN_RUNS
from fedimg.aws.client.waiter import Waiter
from fedimg.config import Limits, Settings
from fedimg.exceptions import Cancelled, EC2ServiceException, exhausted
from fedimg.images import RawImage
from fedimg.intake import resolve
from fedimg.intake.deferred import Defer, DeferredEntries, source_name
from fedimg.intake.resolve import Sources
from fedimg.jobs.age_exemptions import AgeExemptions
from fedimg.jobs.durable_steps import DurableSteps, Gate
from fedimg.jobs.outages import Outages
from fedimg.jobs.queue import JobQueue
from fedimg.jobs.recorder import Recorder
from fedimg.jobs.retries import RetrySchedule
from fedimg.jobs.semaphores import Semaphores
from fedimg.process.abort import end_exhausted
from fedimg.progress import AWAY, LEFT_OUT, PUBLIC
from fedimg.services.ec2 import EC2Service
from fedimg.store.store import Store
from fedimg.worker.lease import ALONE
from fedimg.worker.registry import Registry

#: How much of what an instance printed goes to the log of a failure; the rest is on the bus.
_LOGGED_LINES = 30
#: Between two looks whether another worker has let go of a run, in seconds.
_LOOK_SECONDS = 0.5
#: How the line of a job's error begins that its last clean-up left there.
_UNCLEAN = "clean-up failed: "

_log = logging.getLogger(__name__)


@dataclass
class _Live:
    """A job that this process works on."""

    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


class Workflows:
    """The three workflows that the queues hold: intake, publish, clean.

    A workflow decides by recorded results alone; everything else happens in its steps.
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
        self._age_exemptions = AgeExemptions(store)
        self._live: dict[tuple[str, int], _Live] = {}
        # Jobs that this process has planned and taken to their end in one go, none but that one.
        # Beside each, where a snapshot may have been copied twice.
        self._at_first: dict[str, set[str]] = {}
        self._steps = DurableSteps(gate)
        #: Set, it ends the waiting for Koji and for composes.
        self.stopping = threading.Event()

    def stop_revoked_runs(self) -> None:
        """Break off the runs that another worker has to clean up behind."""
        for job, run in self._registry.to_stop(self._name):
            if live := self._live.get((job, run)):
                live.stop.set()

    def intake(self, entry: str) -> list[str]:
        """An announced task, build or compose becomes one job an image; the jobs' names."""
        images = self._steps.run("ask", lambda: [image.to_json() for image in self._ask(entry)])
        submitted = [
            self._steps.run(f"submit:{image.job}", partial(self._submit, entry, image))
            for image in map(RawImage.from_json, images)
        ]
        # Not in the step: after a crash before its record it is asked for again.
        if not any(row.entry == entry for row in self._deferred.all()):
            self._age_exemptions.drop(entry)
        return [job for job in submitted if job]

    def _ask(self, entry: str) -> list[RawImage]:
        """The entry's images; none, too, when they have to be asked for again later."""
        try:
            images = resolve.ask(
                entry,
                self._sources,
                self._settings,
                self.stopping,
                any_age=self._age_exemptions.has(entry),
            )
        except Defer as error:
            waiting = self._deferred.postpone(entry, error.why, str(error))
            if not waiting.hopeless:
                _log.warning(
                    "%s waits for %s, asked again in %g s: %s",
                    entry,
                    source_name(entry),
                    waiting.pause,
                    error,
                )
                return []
            _log.warning("%s is dropped, after %g s: %s", entry, waiting.waited, error)
            images = []
        self._deferred.settle(entry)
        return images

    def _submit(self, entry: str, image: RawImage) -> str | None:
        job = self._queue.submit(image)
        if job is not None:
            _log.info("%s: job %s", entry, job)
        elif twin := self._store.twin(image):
            _log.info(
                "%s: %s is not published again: job %s is for the same file",
                entry,
                image.name,
                twin,
            )
        else:
            _log.info("%s: job %s is there already", entry, image.job)
        return job

    def publish(self, job: str, run: int) -> None:
        """One run of a job: the image becomes public AMIs, or it is said why not."""
        row = self._store.job(job)
        if row is None:
            return
        with self._working_on(job, run) as stop:
            # Not before: a run that has begun is one that its clean-up can find and stop.
            tries = self._store.begin(job, run)
            if tries is None:
                return
            record = Recorder(self._store, row.image, run, self._settings.ec2.origin)
            doubted: set[str] = set()
            service = EC2Service(
                self._settings.ec2,
                site=self._settings.site,
                checks=self._settings.checks,
                clients=self._clients,
                stop=stop,
                semaphores=self._semaphores,
                outages=self._outages,
                doubted=doubted,
            )
            try:
                result = service.upload(row.image, record, self._steps, again=tries > 1)
            except Cancelled:
                _log.info("job %s: cancelled", job)
                return
            except Exception as error:
                if exhausted(error):
                    end_exhausted(error)
                state, reason = "failed", str(error)
                later = isinstance(error, EC2ServiceException) and error.later
                unknown = isinstance(error, EC2ServiceException) and bool(error.unknown)
                _tell_failure(job, error)
                self._steps.run("announce:failed", partial(record.failed, error))
            else:
                reasons = [f"{region}: {why}" for region, why in result.failed.items()]
                state, reason = ("incomplete", "\n".join(reasons)) if reasons else ("complete", "")
                # Some regions had it, so that the others are EC2's to blame, or the account's.
                later, unknown = bool(reasons), False
                _log.info("job %s: %s", job, state)
            if run == tries == 1:
                self._at_first[job] = doubted
            self._steps.run(
                "finish",
                lambda: self._queue.finish(
                    job, run, state, reason or None, later=later, unknown=unknown
                ),
            )

    def clean(
        self,
        job: str,
        run: int,
        state: str,
        error: str | None,
        later: bool = False,
        count: int = 0,
    ) -> None:
        """Remove what a run left unpublished; then the job is in `state`.

        With `later` it runs again by itself. `count` is which of the further clean-ups this is.
        """
        if live := self._live.get((job, run)):
            live.stop.set()
            live.ended.wait()
        # Nobody else begins it any more; one that does not answer is taken over from, and gone.
        while self._registry.stop_elsewhere(self._name, job, run):
            time.sleep(_LOOK_SECONDS)
        problem = self._steps.run("clean", lambda: self._clean_patiently(job, state))
        self._at_first.pop(job, None)
        before = [line for line in (error or "").splitlines() if not line.startswith(_UNCLEAN)]
        reason = "\n".join([*before, *([problem] if problem else [])])

        def end() -> None:
            self._store.end(job, run, state, reason or None)
            self._semaphores.release_all(job)
            self._leave_out(job)
            # A clean-up that comes again is no end of a run.
            unknown = not (later or count) and self._store.failed_unknown(job, run)
            self._plan(job, run, later, unknown, count, clean=not problem, well=state == "complete")

        self._steps.run("end", end)

    def _plan(
        self,
        job: str,
        run: int,
        later: bool,
        unknown: bool,
        count: int,
        *,
        clean: bool,
        well: bool,
    ) -> None:
        """Decide what the job gets later, by itself."""
        limits = self._settings.ec2.limits
        away = self._away(job)
        if later and (waited_for := self._waited_for(job)):
            self._retries.run_when_back(job, run)
            _log.info("job %s: runs again when %s is back", job, " or ".join(waited_for))
        elif (later or unknown) and (turn := self._retries.run(job, run, limits, unknown=unknown)):
            _log.info(
                "job %s: runs again in %g s, %d of %d",
                job,
                turn.due - time.time(),
                turn.unknown if unknown else turn.count,
                min(UNKNOWN_RUNS, limits.retries) if unknown else limits.retries,
            )
        elif away or not clean or not (well or count):
            self._retries.clean_up(job, run, count, limits)
        else:
            self._retries.forget(job)

    def _waited_for(self, job: str) -> list[str]:
        """The regions that a job waits for, when these alone have kept it from being complete."""
        row = self._store.job(job)
        lines = row.regions if row else []
        if any(line.step not in (PUBLIC, AWAY, LEFT_OUT) for line in lines):
            return []
        return [line.region for line in lines if line.step == AWAY]

    def _away(self, job: str) -> list[str]:
        """The job's regions that cannot be cleaned up now, and will be."""
        row = self._store.job(job)
        found = [self._outages.away(line.region) for line in (row.regions if row else ())]
        return [outage.region for outage in found if outage and outage.due is not None]

    def _leave_out(self, job: str) -> None:
        """Wait no more for a region that is let be."""
        row = self._store.job(job)
        for line in row.regions if row else ():
            outage = self._outages.away(line.region)
            if line.step == AWAY and outage and outage.due is None:
                detail = "'fedimg cleanup' says what may be left there"
                self._store.set_region(job, line.region, step=LEFT_OUT, detail=detail)

    def _clean_patiently(self, job: str, state: str) -> str | None:
        """Clean up, again and again while that fails and may pass; what was wrong at last."""
        limits = _brief(self._settings.ec2.limits)
        problems: list[str] = []

        def clean() -> bool | None:
            problem = self._clean(job, state)
            problems[:] = [problem] if problem else []
            return None if problem else True

        with suppress(EC2ServiceException):
            Waiter(limits, threading.Event()).until(
                clean, what="the job's clean-up", limit=limits.settle
            )
        return problems[0] if problems else None

    def _clean(self, job: str, state: str) -> str | None:
        ec2 = self._settings.ec2
        row = self._store.job(job)
        steps = {region.region: region.step for region in (row.regions if row else ())}
        spared: set[str] = set()
        if state == "failed" and ec2.keep_failed_amis:
            spared |= {cleanup.IMAGE, cleanup.SNAPSHOT}
        if state == "failed" and ec2.keep_failed_instances:
            spared |= {cleanup.INSTANCE, cleanup.VOLUME, cleanup.SECURITY_GROUP}
        made = [ami for ami in self._store.amis() if ami.job == job and not ami.public]
        problems: list[Exception] = []

        def unseen(error: EC2ServiceException) -> None:
            # A region that is down must not keep instances alive in another.
            if regions.chosen(error.region, ec2):
                problems.append(error)
            else:
                _log.warning("job %s: what it left in a region that is let be: %s", job, error)

        try:
            found = cleanup.leftovers(
                self._clients,
                self._settings.site,
                # A region that is away is cleaned up when it is back.
                sorted(name for name in {ec2.origin, *steps} if not self._outages.away(name)),
                job=job,
                kinds=lambda region: self._may_hold(job, region, steps.get(region)),
                recorded=cleanup.recorded(made),
                # What EC2 shows may lag behind what was made public a moment ago.
                published=self._store.ever_public(job),
                unseen=unseen,
            )
            cleanup.remove(
                self._clients,
                Waiter(_brief(ec2.limits), threading.Event()),
                [item for item in found if item.kind not in spared],
                limit=ec2.limits.instance_gone,
                removed=self._removed,
            )
        except Exception as error:
            if exhausted(error):
                raise
            # Of any kind: the job has to end, and a person has to read why it is not clean.
            problems.append(error)
        if not problems:
            self._forget_removed(job, spared)
            return None
        text = f"{_UNCLEAN}{'; '.join(map(str, problems))}; run 'fedimg cleanup'".replace("\n", " ")
        _log.error("job %s: %s", job, text)
        return text

    def _may_hold(self, job: str, region: str, step: str | None) -> Collection[str]:
        """What the job can have left in a region that is at this step: the fewest looks at EC2.

        After a crash, a retry, or a change of the origin between two runs it may be anything.
        """
        ec2 = self._settings.ec2
        if job not in self._at_first or region in (ec2.origin, *ec2.test.regions):
            return cleanup.KINDS
        if step != PUBLIC:
            return (cleanup.IMAGE, cleanup.SNAPSHOT)
        # Where all AMIs are public, only a copy that was made twice can be in excess.
        return (cleanup.SNAPSHOT,) if region in self._at_first[job] else ()

    def _forget_removed(self, job: str, spared: set[str]) -> None:
        """What was never public, nor spared, is gone, also when a crash kept that unrecorded."""
        published = self._store.ever_public(job)
        for ami in self._store.amis():
            if self._outages.away(ami.region) or not regions.chosen(ami.region, self._settings.ec2):
                # Perhaps nobody has looked.
                continue
            if ami.job == job and ami.ami not in published and cleanup.IMAGE not in spared:
                self._store.forget_ami(ami.ami, ami.region)

    def _removed(self, item: cleanup.Leftover) -> None:
        _log.info("job %s: removed %s %s in %s", item.job, item.kind, item.id, item.region)
        if item.kind == cleanup.IMAGE:
            self._store.forget_ami(item.id, item.region)

    @contextmanager
    def _working_on(self, job: str, run: int) -> Iterator[threading.Event]:
        live = self._live[job, run] = _Live()
        self._registry.begin(self._name, job, run)
        try:
            yield live.stop
        finally:
            self._registry.end(self._name, job, run)
            del self._live[job, run]
            live.ended.set()


def _brief(limits: Limits) -> Limits:
    """A clean-up does not wait for a region that is away: it comes again."""
    return limits.model_copy(update={"outage": limits.settle})


def _tell_failure(job: str, error: Exception) -> None:
    if not isinstance(error, EC2ServiceException):
        _log.error("job %s failed: %s", job, error, exc_info=error)
        return
    told = error.output.splitlines()[-_LOGGED_LINES:]
    _log.error("job %s failed: %s%s", job, error, "".join(f"\n    | {line}" for line in told))
