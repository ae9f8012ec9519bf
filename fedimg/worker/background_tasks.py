"""Run the worker's periodic tasks in threads of their own, so that they delay no job."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from fedimg.aws import public_access, regions
from fedimg.aws.client import availability
from fedimg.aws.client.clients import Clients
from fedimg.config import Settings
from fedimg.intake.catch_up import CatchUp, Listing
from fedimg.intake.deferred import DeferredEntries
from fedimg.jobs import retention
from fedimg.jobs.holds import Holds
from fedimg.jobs.outages import Outages
from fedimg.jobs.queue import JobQueue
from fedimg.jobs.room import RoomWaits
from fedimg.lifecycle.parameters import ParameterTask
from fedimg.lifecycle.retention import WorkerRetention
from fedimg.lifecycle.verify import DailyVerification
from fedimg.process.periodic import Periodic
from fedimg.process.wait_log import WaitLog
from fedimg.sources.compose_listing import ComposeListing
from fedimg.sources.koji_listing import KojiListing
from fedimg.store.heartbeats import INTERVAL, WORKER
from fedimg.store.pending import PendingRows
from fedimg.store.store import Store
from fedimg.untrusted.failures import of_endpoint

if TYPE_CHECKING:
    from fedimg.catalogue.task import CatalogueTask

_log = logging.getLogger(__name__)

#: Polling interval of entries, jobs and regions that may be due, in seconds.
_DUE_SECONDS = 2.0
#: Interval at which old history is deleted.
_HISTORY_SECONDS = 86400.0
#: Polling interval of the room for public AMIs, while jobs wait for it, in seconds.
_ROOM_SECONDS = 60.0


class BackgroundTasks:
    """The periodic tasks of one worker.

    A method of a task does one turn, and returns the seconds until the next.

    Args:
        settings: those of the site.
        store: the site's database.
        queue: starts what is due.
        clients: reach EC2.
        stop: ends every task when it is set.
        name: the worker's, under which it says that it works.
        pending: tells which tables hold rows that wait.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        queue: JobQueue,
        clients: Clients,
        stop: threading.Event,
        name: str,
        pending: PendingRows,
    ) -> None:
        self._settings = settings
        self._store = store
        self._queue = queue
        self._clients = clients
        self._stop = stop
        self._name = name
        self._pending = pending
        self._deferred = DeferredEntries(store)
        self._outages = Outages(store, settings.ec2.limits)
        self._room_waits = RoomWaits(store)
        self._holds = Holds(store)
        self._hold_log = WaitLog(_log)

    def periodic(self, leads: threading.Event) -> list[Periodic]:
        """Return the tasks, not yet started.

        Those of the whole site run only while `leads` is set: in one of the workers.
        """
        regions_of_site = partial(regions.expected, self._clients, self._settings.ec2)
        verification = DailyVerification(
            self._settings, self._store, self._clients, regions_of_site, self._stop
        )
        rules = WorkerRetention(self._settings, self._store, self._clients, self._stop)
        parameters = ParameterTask(
            self._settings,
            self._store,
            self._clients,
            self._stop,
            lambda: self._pending.current().parameters,
        )

        def leading(what: str, turn: Callable[[], float]) -> Periodic:
            return Periodic(what, turn, self._stop, leads)

        return [
            Periodic("saying that the worker works", self._beat, self._stop),
            Periodic("watching the hold", self._log_hold, self._stop),
            # A task for each listing, so that a server that hangs delays no other listing.
            *(
                leading(f"catching up with {', '.join(each.kinds)}", self._catching_up(each))
                for each in self._listings()
            ),
            leading("requeueing deferred entries", self._requeue_deferred),
            leading("starting due retries", self._start_retries),
            leading("probing unavailable regions", self._probe_regions),
            leading("looking for room for public AMIs", self._look_for_room),
            leading("deleting old history", self._delete_history),
            leading("comparing the record with EC2", verification.compare_if_due),
            leading("applying the rules of retention", rules.apply),
            leading("setting the parameters of the newest AMIs", parameters.apply),
            *(
                leading("writing the catalogue", task.write_if_changed)
                for task in _catalogue(self._settings, self._store)
            ),
        ]

    def _beat(self) -> float:
        self._store.beat(WORKER, self._name)
        return INTERVAL

    def _log_hold(self) -> float:
        if self._pending.current().hold and (hold := self._holds.current()):
            self._hold_log.waiting("hold", f"{hold}; 'fedimg release' ends the hold")
        else:
            self._hold_log.over("hold", "publishing is no longer held")
        return _DUE_SECONDS

    def _listings(self) -> list[Listing]:
        composes = self._settings.composes
        return [
            KojiListing(self._settings.koji),
            *(ComposeListing(composes, location) for location in composes.locations),
        ]

    def _catching_up(self, listing: Listing) -> Callable[[], float]:
        settings = self._settings
        catch_up = CatchUp(self._store, self._queue, listing, settings.catch_up, self._stop)

        def read_listing() -> float:
            complete = catch_up.read_listing()
            return settings.catch_up.interval if complete else settings.koji.retry_seconds

        return read_listing

    def _requeue_deferred(self) -> float:
        if self._pending.current().entries:
            self._deferred.requeue_due(self._queue.enqueue_entry)
        return _DUE_SECONDS

    def _start_retries(self) -> float:
        if self._pending.current().retries:
            self._queue.begin_due()
        return _DUE_SECONDS

    def _probe_regions(self) -> float:
        if self._pending.current().outages:
            deselected = partial(regions.deselected, self._clients, self._settings.ec2)
            self._outages.probe_due(self._problem_of, deselected)
        return _DUE_SECONDS

    def _problem_of(self, region: str) -> str:
        error = availability.probe(self._clients, region)
        return of_endpoint(error) if error else ""

    def _look_for_room(self) -> float:
        for wait in self._room_waits.wake(partial(public_access.room_left, self._clients)):
            _log.info("job %s: %s has room again; the job continues there", wait.job, wait.region)
        return min(_ROOM_SECONDS, self._settings.ec2.limits.retry_after)

    def _delete_history(self) -> float:
        retention.forget(self._store, self._queue, self._settings.worker.history_days)
        return _HISTORY_SECONDS


def _catalogue(settings: Settings, store: Store) -> list[CatalogueTask]:
    """Return the task that writes the catalogue, if the site has one."""
    directory = settings.catalogue.directory
    if not directory:
        return []
    from fedimg.catalogue.task import CatalogueTask
    from fedimg.catalogue.writer import CatalogueWriter

    catalogue = settings.catalogue
    writer = CatalogueWriter(
        store,
        directory,
        site=settings.site,
        base_url=catalogue.base_url,
        latest=catalogue.latest,
    )
    return [CatalogueTask(writer, catalogue.signing_key or None)]
