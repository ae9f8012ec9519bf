"""Define the workflow of an entry: its images are looked up, and each gets a job."""

from __future__ import annotations

import logging
import threading
from functools import partial

from fedimg.config import Settings
from fedimg.images import RawImage
from fedimg.intake import image_selection
from fedimg.intake.deferred import Defer, DeferredEntries, source_name
from fedimg.intake.image_selection import Decisions, Sources
from fedimg.jobs.age_exemptions import AgeExemptions
from fedimg.jobs.entry_images import EntryImages
from fedimg.jobs.queue import JobQueue
from fedimg.services.recorded import RecordedSteps
from fedimg.steps import Steps
from fedimg.store.store import Store

_log = logging.getLogger(__name__)


class IntakeWorkflow:
    """The workflow of an entry. Setting `stopping` ends a wait for Koji or for composes."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        queue: JobQueue,
        sources: Sources,
        steps: Steps,
        stopping: threading.Event,
    ) -> None:
        self._settings = settings
        self._store = store
        self._queue = queue
        self._sources = sources
        self._steps = steps
        self._stopping = stopping
        self._deferred = DeferredEntries(store)
        self._age_exemptions = AgeExemptions(store)
        self._entry_images = EntryImages(store)

    def resolve(self, entry: str) -> list[str]:
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
                self._stopping,
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
