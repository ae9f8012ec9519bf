"""What the worker does at intervals, beside its jobs and without holding any up."""

from __future__ import annotations

import threading
from functools import partial

from fedimg.aws import regions
from fedimg.aws.client import availability
from fedimg.aws.client.clients import Clients
from fedimg.config import Settings
from fedimg.intake.catch_up import CatchUp, Listing
from fedimg.intake.deferred import DeferredEntries
from fedimg.jobs import retention
from fedimg.jobs.outages import Outages
from fedimg.jobs.queue import JobQueue
from fedimg.process.periodic import Periodic
from fedimg.sources.compose_listing import ComposeListing
from fedimg.sources.koji_listing import KojiListing
from fedimg.store.store import Store

#: Between two looks at the entries, and the jobs, whose turn may have come again.
_LATER_SECONDS = 2.0
#: Between two looks for history that is old by now.
_HISTORY_SECONDS = 86400.0


def background_tasks(
    settings: Settings,
    store: Store,
    queue: JobQueue,
    clients: Clients,
    stop: threading.Event,
    turn: threading.Event,
) -> list[Periodic]:
    """Finding what was missed, asking Koji and regions again, running jobs again, forgetting what
    is old.

    Of several workers the one does it whose `turn` is set.
    """
    composes = settings.composes
    listings: list[Listing] = [KojiListing(settings.koji)]
    listings += [ComposeListing(composes, each) for each in composes.locations]
    deferred = DeferredEntries(store)
    outages = Outages(store, settings.ec2.limits)

    def catching_up(listing: Listing) -> Periodic:
        catch_up = CatchUp(store, queue, listing, settings.catch_up, stop)

        def look() -> float:
            return settings.catch_up.interval if catch_up.look() else settings.koji.retry_seconds

        return Periodic(f"catching up with {', '.join(listing.kinds)}", look, stop, turn)

    def ask_again() -> float:
        deferred.take_in(queue.take_in)
        return _LATER_SECONDS

    def begin_due() -> float:
        queue.begin_due()
        return _LATER_SECONDS

    def probe(region: str) -> str:
        return " ".join(str(availability.probe(clients, region) or "").split())

    def look_at_regions() -> float:
        outages.look(probe, partial(regions.unwanted, clients, settings.ec2))
        return _LATER_SECONDS

    def forget() -> float:
        retention.forget(store, queue, settings.worker.history_days)
        return _HISTORY_SECONDS

    return [
        # One a place: where one of them is silent, the others are looked at all the same.
        *map(catching_up, listings),
        Periodic("asking again", ask_again, stop, turn),
        Periodic("running jobs again", begin_due, stop, turn),
        Periodic("asking regions again", look_at_regions, stop, turn),
        Periodic("forgetting old history", forget, stop, turn),
    ]
