"""Detect regions that do not answer, from errors and probes, for all jobs of the process."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from botocore.exceptions import ClientError

from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import (
    FAILURES,
    expired,
    in_doubt,
    outage_after,
    region_may_refuse,
)
from fedimg.exceptions import EC2ServiceException
from fedimg.untrusted.failures import of_endpoint

#: How long a probe that the origin accepts the worker's credentials stays valid, in seconds.
_ORIGIN_PROBE_SECONDS = 10.0
#: A region that answered within the last so many seconds needs no probe.
_ANSWERED_SECONDS = 60.0
#: For so many seconds a region may reject new credentials that the origin accepts already.
_KEYS_SECONDS = 10.0


class Outages(Protocol):
    """The regions that are known to be unavailable, shared by all jobs."""

    def away(self, region: str) -> object | None:
        """Return the region's outage, whose text says since when and why; None without one."""

    def begin(self, region: str, reason: str) -> None:
        """Record that a region is unavailable."""


class Watch:
    """Watches one further region for one job, and records its outages for all other jobs."""

    def __init__(self, clients: Clients, origin: Origin, region: str, outages: Outages) -> None:
        self._clients = clients
        self._origin = origin
        self._region = region
        self._outages = outages

    def raise_if_away(self) -> None:
        """Raise EC2ServiceException when the region is known to be unavailable."""
        if outage := self._outages.away(self._region):
            raise EC2ServiceException(
                f"{outage}; the job continues there when the region answers again",
                region=self._region,
                later=True,
                away=True,
            )

    def meet(self) -> None:
        """Probe a region that has not answered lately; raise as `raise_if_away` does.

        A call that creates something must not be the first to hang, since its outcome is then in
        doubt.
        """
        self.raise_if_away()
        if self._clients.silent_for(self._region) > _ANSWERED_SECONDS:
            error = probe(self._clients, self._region)
            if error is not None and in_doubt(error):
                self.failed(error, 0.0, math.inf)

    def failed(self, error: Exception, seconds: float, limit: float) -> None:
        """Judge an error that has recurred for some `seconds`; raise as `raise_if_away` does.

        Such errors are retried for `limit` seconds at most.
        """
        if expired(error):
            tolerated: float | None = None if self.keys_at_fault() else _KEYS_SECONDS
        else:
            tolerated = outage_after(error)
        if tolerated is not None and seconds >= min(tolerated, limit):
            # The keys may have been renewed after the region refused them, and before the origin
            # was asked.
            if expired(error) and probe(self._clients, self._region) is None:
                return
            self._begin(error)
            self.raise_if_away()

    def refused(self, error: BaseException | None) -> None:
        """Judge a refusal that ends a step.

        Raises what `raise_if_away` does when the region refuses every call.
        """
        if not isinstance(error, ClientError) or not region_may_refuse(error):
            return
        problem = probe(self._clients, self._region)
        if problem is not None and region_may_refuse(problem) and not self.keys_at_fault():
            self._begin(problem)
            self.raise_if_away()

    def keys_at_fault(self) -> bool:
        """Return whether the origin rejects the worker's credentials, too."""
        return not self._origin.accepts_keys()

    def beside(self) -> OfAnotherService:
        """Return what judges the errors of another service than EC2 in the region."""
        return OfAnotherService(self)

    def failed_beside(self, error: Exception, seconds: float, limit: float) -> None:
        """Judge an error of another service as `failed` does: EC2's own silence is an outage."""
        tolerated = outage_after(error)
        if tolerated is None or seconds < min(tolerated, limit):
            return
        problem = probe(self._clients, self._region)
        if problem is not None:
            self.failed(problem, seconds, limit)

    def _begin(self, error: Exception) -> None:
        self._outages.begin(self._region, of_endpoint(error))


class OfAnotherService:
    """Ends the waits for a service such as S3 when the whole region is away.

    While EC2 answers there, the region is not away: other jobs may need EC2 alone, and whoever
    waits goes on until the limit.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def raise_if_away(self) -> None:
        """Raise EC2ServiceException when the region is known to be unavailable."""
        self._watch.raise_if_away()

    def failed(self, error: Exception, seconds: float, limit: float) -> None:
        """Judge an error of the service that has recurred for some `seconds`, of `limit`."""
        self._watch.failed_beside(error, seconds, limit)


class Origin:
    """Tells whether the origin accepts the worker's credentials; safe to use from many threads."""

    def __init__(self, clients: Clients, region: str) -> None:
        self._clients = clients
        self._region = region
        self._lock = threading.Lock()
        self._accepted_at: float | None = None

    def accepts_keys(self) -> bool:
        """Return whether the origin accepts the credentials, by a probe at most 10 seconds old."""
        with self._lock:
            now = time.monotonic()
            if self._accepted_at is None or now - self._accepted_at > _ORIGIN_PROBE_SECONDS:
                accepted = probe(self._clients, self._region) is None
                self._accepted_at = now if accepted else None
            return self._accepted_at is not None


def probe(clients: Clients, region: str) -> Exception | None:
    """Return the error of a call that every region answers; None when the region answers it."""
    try:
        clients.ec2_brief(region).describe_availability_zones()
    except FAILURES as error:
        return error
    return None


def probed(clients: Clients, regions: Sequence[str]) -> dict[str, str]:
    """Return those of some regions that do not answer, each with the error."""
    with ThreadPoolExecutor(max_workers=max(1, len(regions))) as pool:
        errors = pool.map(lambda region: probe(clients, region), regions)
        return {
            region: of_endpoint(error)
            for region, error in zip(regions, errors, strict=True)
            if error is not None
        }
