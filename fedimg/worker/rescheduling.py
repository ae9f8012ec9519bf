"""Schedule what follows a run of a job: a retry, another clean-up, or nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from fedimg.aws.client.error_codes import UNKNOWN_RUNS
from fedimg.config import Limits
from fedimg.jobs.outages import Outages
from fedimg.jobs.retries import RetrySchedule
from fedimg.progress import AWAY, CONTINUED, DONE, FAILED_FOR_GOOD, LEFT_OUT, OVER_QUOTA
from fedimg.store.rows import RegionRow
from fedimg.store.store import Store

#: The last steps of regions because of which a job is not retried.
_SETTLED = (*DONE, LEFT_OUT, FAILED_FOR_GOOD, *CONTINUED)

_log = logging.getLogger(__name__)


class Rescheduling:
    """Schedules by the record of a job's ended run; other workers see it, too."""

    def __init__(self, store: Store, limits: Limits, outages: Outages) -> None:
        self._store = store
        self._limits = limits
        self._outages = outages
        self._retries = RetrySchedule(store)

    def schedule(
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
        limits = self._limits
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
        self._retries.run_when_back(job, run, self._limits, refused=refused)
        for each in regions:
            what = "is available again" if each.step == AWAY else "has room for its AMIs"
            _log.info("job %s: continues when %s %s", job, each.region, what)

    def _unavailable_regions(self, job: str) -> list[str]:
        """Return the job's regions that can only be cleaned up after their outages."""
        row = self._store.job(job)
        outages = [self._outages.away(each.region) for each in (row.regions if row else ())]
        return [outage.region for outage in outages if outage and outage.due is not None]

    def skip_abandoned_regions(self, job: str) -> None:
        """Mark the job's regions in which fedimg no longer publishes as left out."""
        row = self._store.job(job)
        for each in row.regions if row else ():
            outage = self._outages.away(each.region)
            if each.step == AWAY and outage and outage.due is None:
                detail = "'fedimg cleanup' lists what the job may have left there"
                self._store.set_region(job, each.region, step=LEFT_OUT, detail=detail)
