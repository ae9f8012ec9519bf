"""Whether a further region is away: told by how it answers, and known to all jobs."""

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
    region_may_refuse,
    silence_told_after,
)
from fedimg.exceptions import EC2ServiceException

#: How long it is believed that the origin takes the worker's keys, in seconds.
_BELIEVED_SECONDS = 10.0
#: What has answered within so many seconds is there.
_HEARD_SECONDS = 60.0
#: A region that takes no credentials which the origin takes may be about to learn of new ones.
_KEYS_SECONDS = 10.0


class Outages(Protocol):
    """What all jobs know of regions that are away."""

    def away(self, region: str) -> object | None:
        """Return the region's outage, whose text says since when and why; None without one."""

    def begin(self, region: str, reason: str) -> None:
        """Note that a region is away."""


class Watch:
    """Watches over one further region, for one job; it tells all others what it sees."""

    def __init__(self, clients: Clients, origin: Origin, region: str, outages: Outages) -> None:
        self._clients = clients
        self._origin = origin
        self._region = region
        self._outages = outages

    def check(self) -> None:
        """Raise EC2ServiceException when the region is known to be away."""
        if outage := self._outages.away(self._region):
            raise EC2ServiceException(
                f"{outage}; the job goes on there when it is back",
                region=self._region,
                later=True,
                away=True,
            )

    def meet(self) -> None:
        """Ask a region that nobody has heard of lately; raises as `check` does.

        A call that makes something is not to be the first that hangs: it is waited for longer.
        """
        self.check()
        if self._clients.silent_for(self._region) > _HEARD_SECONDS:
            error = probe(self._clients, self._region)
            if error is not None and in_doubt(error):
                self.failed(error, 0.0, math.inf)

    def failed(self, error: Exception, seconds: float, limit: float) -> None:
        """Judge an error that has come for some seconds; raises as `check` does.

        For `limit` seconds at most such errors are waited for.
        """
        if expired(error):
            enough: float | None = None if self.keys_at_fault() else _KEYS_SECONDS
        else:
            enough = silence_told_after(error)
        if enough is not None and seconds >= min(enough, limit):
            self._begin(error)
            self.check()

    def refused(self, error: BaseException | None) -> None:
        """Judge a refusal that ends a step; raises as `check` does when the region refuses all."""
        if not isinstance(error, ClientError) or not region_may_refuse(error):
            return
        problem = probe(self._clients, self._region)
        if problem is not None and region_may_refuse(problem) and not self.keys_at_fault():
            self._begin(problem)
            self.check()

    def keys_at_fault(self) -> bool:
        """Whether the origin does not take the worker's credentials either."""
        return not self._origin.takes_keys()

    def _begin(self, error: Exception) -> None:
        self._outages.begin(self._region, " ".join(str(error).split()))


class Origin:
    """Whether the origin takes the worker's credentials; for many threads at once."""

    def __init__(self, clients: Clients, region: str) -> None:
        self._clients = clients
        self._region = region
        self._lock = threading.Lock()
        self._taken_at: float | None = None

    def takes_keys(self) -> bool:
        """Return whether it does, by its own word of some seconds ago at most."""
        with self._lock:
            now = time.monotonic()
            if self._taken_at is None or now - self._taken_at > _BELIEVED_SECONDS:
                taken = probe(self._clients, self._region) is None
                self._taken_at = now if taken else None
            return self._taken_at is not None


def probe(clients: Clients, region: str) -> Exception | None:
    """Return why a region cannot be asked for what every region tells; None when it answers."""
    try:
        clients.ec2_brief(region).describe_availability_zones()
    except FAILURES as error:
        return error
    return None


def probed(clients: Clients, regions: Sequence[str]) -> dict[str, str]:
    """Return those of some regions that cannot be asked, and why."""
    with ThreadPoolExecutor(max_workers=max(1, len(regions))) as pool:
        errors = pool.map(lambda region: probe(clients, region), regions)
        return {
            region: " ".join(str(error).split())
            for region, error in zip(regions, errors, strict=True)
            if error is not None
        }
