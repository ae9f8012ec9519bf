"""Run the worker's periodic tasks in threads of their own, so that they delay no job."""

from __future__ import annotations

import logging
import threading
from functools import partial

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

_log = logging.getLogger(__name__)

#: Polling interval of entries, jobs and regions that may be due, in seconds.
_DUE_SECONDS = 2.0
#: Interval at which old history is deleted.
_HISTORY_SECONDS = 86400.0
#: Polling interval of the room for public AMIs, while jobs wait for it, in seconds.
_ROOM_SECONDS = 60.0


def background_tasks(
    settings: Settings,
    store: Store,
    queue: JobQueue,
    clients: Clients,
    stop: threading.Event,
    leads: threading.Event,
    name: str,
) -> list[Periodic]:
    """Return the periodic tasks of a worker, not yet started.

    They catch up with missed announcements, ask about deferred entries again, start due retries,
    probe unavailable regions, look for room for public AMIs, delete old history, compare the record
    with EC2, apply the rules of retention and write the catalogue. These run only in the worker
    whose `leads` is set; every worker, by its `name`, says that it works, and logs the operator's
    hold. All end when `stop` is set.
    """
    composes = settings.composes
    listings: list[Listing] = [KojiListing(settings.koji)]
    listings += [ComposeListing(composes, location) for location in composes.locations]
    deferred = DeferredEntries(store)
    outages = Outages(store, settings.ec2.limits)
    # Read a little more often than the tasks poll, as they begin at different times.
    pending = PendingRows(store, _DUE_SECONDS * 0.9)

    def catch_up_task(listing: Listing) -> Periodic:
        catch_up = CatchUp(store, queue, listing, settings.catch_up, stop)

        def read_listing() -> float:
            complete = catch_up.read_listing()
            return settings.catch_up.interval if complete else settings.koji.retry_seconds

        return Periodic(f"catching up with {', '.join(listing.kinds)}", read_listing, stop, leads)

    def requeue_deferred() -> float:
        if pending.current().entries:
            deferred.requeue_due(queue.enqueue_entry)
        return _DUE_SECONDS

    def start_retries() -> float:
        if pending.current().retries:
            queue.begin_due()
        return _DUE_SECONDS

    def probe(region: str) -> str:
        error = availability.probe(clients, region)
        return of_endpoint(error) if error else ""

    def probe_regions() -> float:
        if pending.current().outages:
            outages.probe_due(probe, partial(regions.deselected, clients, settings.ec2))
        return _DUE_SECONDS

    room_waits = RoomWaits(store)

    def look_for_room() -> float:
        for wait in room_waits.wake(partial(public_access.room_left, clients)):
            _log.info("job %s: %s has room again; the job continues there", wait.job, wait.region)
        return min(_ROOM_SECONDS, settings.ec2.limits.retry_after)

    def delete_history() -> float:
        retention.forget(store, queue, settings.worker.history_days)
        return _HISTORY_SECONDS

    holds, hold_log = Holds(store), WaitLog(_log)

    def log_hold() -> float:
        if pending.current().hold and (hold := holds.current()):
            hold_log.waiting("hold", f"{hold}; 'fedimg release' ends the hold")
        else:
            hold_log.over("hold", "publishing is no longer held")
        return _DUE_SECONDS

    def beat() -> float:
        store.beat(WORKER, name)
        return INTERVAL

    verification = DailyVerification(
        settings, store, clients, partial(regions.expected, clients, settings.ec2), stop
    )
    rules = WorkerRetention(settings, store, clients, stop)

    return [
        Periodic("saying that the worker works", beat, stop),
        Periodic("watching the hold", log_hold, stop),
        # A task for each listing, so that a server that hangs delays no other listing.
        *map(catch_up_task, listings),
        Periodic("requeueing deferred entries", requeue_deferred, stop, leads),
        Periodic("starting due retries", start_retries, stop, leads),
        Periodic("probing unavailable regions", probe_regions, stop, leads),
        Periodic("looking for room for public AMIs", look_for_room, stop, leads),
        Periodic("deleting old history", delete_history, stop, leads),
        Periodic("comparing the record with EC2", verification.compare_if_due, stop, leads),
        Periodic("applying the rules of retention", rules.apply, stop, leads),
        *_catalogue(settings, store, stop, leads),
    ]


def _catalogue(
    settings: Settings, store: Store, stop: threading.Event, leads: threading.Event
) -> list[Periodic]:
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
    task = CatalogueTask(writer, catalogue.signing_key or None)
    return [Periodic("writing the catalogue", task.write_if_changed, stop, leads)]
