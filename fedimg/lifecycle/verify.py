"""Compare the record with EC2, in all regions, and record the result."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fedimg.aws import ami_quota, amis, inventory
from fedimg.aws.bundle import listing
from fedimg.aws.bundle.place import is_bundle
from fedimg.aws.client import retrying
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES
from fedimg.aws.client.retrying import RetryingClient
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.inventory import Inventory
from fedimg.config import Settings
from fedimg.exceptions import EC2ServiceException
from fedimg.images import Attributes
from fedimg.lifecycle import audience_comparison, comparison, parameter_comparison
from fedimg.lifecycle.comparison import Difference, Kind
from fedimg.parallel import run_parallel
from fedimg.records import as_record
from fedimg.store.changes import DEPRECATE, PendingChanges
from fedimg.store.repairs import Repairs
from fedimg.store.rows import DELETED, LIVE, AMIRow
from fedimg.store.store import Store
from fedimg.store.verifications import Verifications
from fedimg.untrusted.quoting import one_line

#: For how many seconds a region that fails is asked again.
_OUTAGE_SECONDS = 30.0
#: A region with 4,000 AMIs takes 20 MiB while it is compared.
_REGIONS_AT_ONCE = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RegionResult:
    """The comparison of one region: how many AMIs were compared, and what differs.

    With `error`, the region could not be compared.
    """

    region: str
    amis: int
    differences: Sequence[Difference] = field(default_factory=list)
    error: str | None = None


def verify_regions(
    settings: Settings,
    store: Store,
    clients: Clients,
    regions: Collection[str],
    *,
    chosen: Callable[[AMIRow], bool] | None = None,
    stop: threading.Event | None = None,
) -> list[RegionResult]:
    """Compare the recorded AMIs of some regions with EC2; return a result for each region.

    `chosen` limits the comparison to some AMIs; without it, unrecorded resources of the site, block
    public access and the parameters of SSM are reported, too, and the comparison is recorded as
    that of the region.
    """
    comparison_of = _Comparison(settings, store, clients, chosen, stop or threading.Event())
    results = run_parallel(
        {region: partial(comparison_of.one, region) for region in regions}, _REGIONS_AT_ONCE
    )
    return [results[region] for region in sorted(results)]


class _Comparison:
    """One comparison of the record with EC2, region by region."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clients: Clients,
        chosen: Callable[[AMIRow], bool] | None,
        stop: threading.Event,
    ) -> None:
        limits = settings.ec2.limits
        self._settings = settings
        self._store = store
        self._clients = clients
        self._chosen = chosen
        self._stop = stop
        self._limits = limits.model_copy(update={"outage": min(limits.outage, _OUTAGE_SECONDS)})
        self._verifications = Verifications(store)
        self._live_before = _live(store)

    def one(self, region: str) -> RegionResult:
        """Compare the recorded AMIs of one region with EC2, and record the result."""
        store = self._store
        # Read before the record, in which a change that has ended is the AMI's own state.
        deprecating = {
            (change.job, change.region)
            for change in PendingChanges(store).all()
            if change.what == DEPRECATE
        }
        repairing = Repairs(store).pending()
        # Read before EC2: an AMI is recorded as public only after it became public.
        recorded = store.all_amis(region)
        rows = [row for row in recorded if self._chosen is None or self._chosen(row)]
        maybe_shared = store.maybe_shared(region)
        # What a running job makes, and has not made public, changes all the time.
        live = self._live_before | _live(store)
        kept = store.kept()
        compared = [row for row in rows if row.public or row.job not in live]
        at = time.time()
        try:
            seen = self._seen(region, compared, maybe_shared)
        except (*FAILURES, EC2ServiceException) as error:
            why = one_line(str(error))
            if self._chosen is None:
                self._verifications.record_failure(region, at, why)
            return RegionResult(region, len(compared), error=why)
        differences = comparison.compare(compared, seen, deprecating, repairing)
        # A run that began meanwhile is sharing them.
        its = [row for row in compared if row.audience is not None or row.job not in _live(store)]
        differences += [
            comparison.unless_pending(each, deprecating, repairing)
            for each in audience_comparison.compare(its, seen, maybe_shared)
        ]
        if self._chosen is None:
            differences += comparison.blocked(seen)
            # Of a job that began to wait for room, or continues after that, one of the two tells.
            spared = live | _live(store), kept | store.kept()
            differences += comparison.unrecorded(recorded, seen, *spared)
            differences += parameter_comparison.compare(
                store, self._clients, region, self._limits, self._stop
            )
            self._record_region(region, at, seen, differences)
        self._verifications.record_amis(
            region,
            at,
            [row.ami for row in compared],
            _by_ami(compared, differences),
            _new_attributes(compared, seen, self._clients.partition(region)),
        )
        return RegionResult(region, len(compared), differences)

    def _seen(
        self, region: str, compared: Sequence[AMIRow], maybe_shared: Collection[str]
    ) -> Inventory:
        """Return what EC2 shows of some AMIs. Raises botocore's errors and EC2ServiceException."""
        ec2 = RetryingClient(self._clients, region, Waiter(self._limits, self._stop))
        s3 = retrying.s3(self._clients, region, Waiter(self._limits, self._stop, service="S3"))
        there = [row for row in compared if row.state != DELETED]
        snapshots = {row.snapshot for row in there}
        return inventory.take(
            ec2,
            self._settings.site,
            region,
            amis=[row.ami for row in there],
            snapshots=snapshots,
            bundles=_bundles(self._settings, s3, region, snapshots),
            private=audience_comparison.private(compared, maybe_shared),
        )

    def _record_region(
        self, region: str, at: float, seen: Inventory, differences: Sequence[Difference]
    ) -> None:
        self._verifications.record_region(
            region,
            at,
            # What the worker has not finished is told by the changes, and is over long before
            # the next comparison.
            [text_of(each) for each in differences if each.kind is not Kind.PENDING],
            public_amis=sum(bool(image.get("Public")) for image in seen.images.values()),
            quota=ami_quota.public_amis(self._clients, region),
        )


def _bundles(
    settings: Settings, s3: Client, region: str, recorded: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Return the bundles of a region, if the site makes or has made any; S3 is not asked otherwise.

    Raises botocore's errors.
    """
    bucket = settings.ec2.instance_store.bucket_in(region)
    if not bucket and not any(map(is_bundle, recorded)):
        return {}
    return listing.whole(s3, bucket, settings.site, recorded)


def _live(store: Store) -> set[str]:
    return {job.job for job in store.jobs(LIVE)}


def text_of(difference: Difference) -> str:
    """Return a difference as one line."""
    where = f" in {difference.region}" if difference.id != difference.region else ""
    whose = f" of {difference.job}" if difference.job else ""
    return f"{difference.id}{where}{whose}: {difference.kind}: {difference.text}"


class DailyVerification:
    """The worker's comparison, of each region every `verify.interval` seconds; it only reports."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clients: Clients,
        regions: Callable[[], Collection[str]],
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._store = store
        self._clients = clients
        self._regions = regions
        self._stop = stop

    def compare_if_due(self) -> float:
        """Compare the regions where that is due; return the seconds until the next call."""
        interval = self._settings.verify.interval
        if not interval:
            return _IDLE_SECONDS
        verifications = Verifications(self._store)
        last = {each.region: each.at for each in verifications.all()}
        # A person may have compared some regions, and a region is compared first when the record
        # is as old as the interval: each region has its own time.
        began = self._store.created_at() or time.time()
        now = time.time()
        recorded = self._store.ami_regions()
        regions = recorded | set(self._regions()) if recorded else set()
        due = {region for region in regions if last.get(region, began) + interval <= now}
        if due:
            results = verify_regions(
                self._settings, self._store, self._clients, due, stop=self._stop
            )
            _report(results)
        # Nobody compares these any more, so that what their last comparison found is outdated.
        verifications.forget(
            {region for region in set(last) - regions if last[region] + interval <= now}
        )
        return min(interval, _IDLE_SECONDS)


#: How often it is looked whether a comparison is due, in seconds.
_IDLE_SECONDS = 60.0


def _report(results: Sequence[RegionResult]) -> None:
    for result in results:
        for difference in result.differences:
            _log.warning("record and EC2 differ: %s", text_of(difference))
        if result.error:
            _log.warning(
                "cannot compare the record with EC2 in %s: %s", result.region, result.error
            )
    compared = [result for result in results if not result.error]
    _log.info(
        "compared %d AMIs in %d regions with EC2: %d differences",
        sum(result.amis for result in compared),
        len(compared),
        sum(len(result.differences) for result in compared),
    )


def _new_attributes(
    compared: Sequence[AMIRow], seen: Inventory, partition: str
) -> dict[str, Attributes]:
    """Return the attributes that EC2 shows and the record lacks, or has otherwise, by AMI."""
    shown = {
        row.ami: amis.attributes(seen.images[row.ami], partition)
        for row in compared
        if row.ami in seen.images
    }
    recorded = {row.ami: row.attributes for row in compared}
    return {id: each for id, each in shown.items() if as_record(each) != recorded[id]}


def _by_ami(compared: Sequence[AMIRow], differences: Sequence[Difference]) -> dict[str, str]:
    """Return the texts of the differences by AMI; a snapshot's belong to each of its AMIs."""
    of: dict[str, list[str]] = {}
    for row in compared:
        for id in (row.ami, row.snapshot):
            of.setdefault(id, []).append(row.ami)
    texts: dict[str, list[str]] = {}
    for difference in differences:
        text = f"{difference.kind}: {difference.text}"
        for ami in of.get(difference.id, ()):
            found = texts.setdefault(ami, [])
            if text not in found:
                found.append(text)
    return {ami: "; ".join(found) for ami, found in texts.items()}
