"""One client a region, with time-outs, retries and a shared pool of connections."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from botocore.config import Config
from botocore.exceptions import UnknownRegionError

from fedimg import __version__
from fedimg.aws.client import service_model
from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.kernels import Kernels
from fedimg.aws.client.types import Client

# EC2 answers in well under a second, RunInstances in a few; a minute means a dead connection.
_CONNECT_SECONDS = 10
_READ_SECONDS = 60
# Who tries again by himself notices a region that hangs sooner.
_ONCE_SECONDS = 20
# A look that can do without an answer: a region that does not answer by then is not waited for.
_BRIEF_SECONDS = 5
# Back-off doubles from under a second: five tries take some ten seconds. Who can wait for longer
# does so by himself (fedimg.aws.client.retrying), and nobody else is to wait for a region that is
# away.
_ATTEMPTS = 5
_CONNECTIONS = 20
# Many threads see their credentials refused at once; a session takes half a second to make.
_RENEW_SECONDS = 10


class Clients:
    """Every AWS client of one process; safe to use from many threads.

    Credentials, profile and endpoints come from boto3's own chain. `before` is called with service
    and region before each call, and before each further try of it.
    """

    def __init__(self, before: Callable[[str, str], None] = lambda *_: None) -> None:
        self._before = before
        self._session: Any = service_model.session()
        self._lock = threading.Lock()
        self._made: dict[tuple[str, str, int, int, float], Client] = {}
        self._renewed = time.monotonic()
        self._polling: dict[str, BatchedPolling] = {}
        self._answered: dict[str, float] = {}
        #: The regions' PV-GRUB kernels, as far as any job has asked for them.
        self.kernels = Kernels()

    def renew(self) -> None:
        """Read credentials anew for the clients to come: AWS has refused those in use.

        What expires by a schedule boto3 renews by itself; a file of keys it reads but once.
        """
        with self._lock:
            if time.monotonic() - self._renewed < _RENEW_SECONDS:
                return
            self._renewed = time.monotonic()
            self._session = service_model.session()
            self._made.clear()

    def ec2(self, region: str) -> Client:
        """EC2 in a region; throttled, failed and broken calls are tried again."""
        return self.client("ec2", region)

    def ec2_once(self, region: str) -> Client:
        """EC2 in a region, each call tried once: a job's, which waits and tries again by itself."""
        return self.client("ec2", region, attempts=1, seconds=_ONCE_SECONDS)

    def ec2_brief(self, region: str) -> Client:
        """EC2 in a region, each call tried once and given up after seconds: for looks alone."""
        return self.client("ec2", region, attempts=1, seconds=_BRIEF_SECONDS)

    def known_regions(self, like: str) -> list[str]:
        """The regions that boto3 knows of the kind of this one, AWS's own or China's; none of
        another cloud's. Nobody is asked, and an account may have fewer, or newer ones.
        """
        with self._lock:
            try:
                partition = self._session.get_partition_for_region(like)
            except UnknownRegionError:
                return []
            return list(self._session.get_available_regions("ec2", partition_name=partition))

    def silent_for(self, region: str) -> float:
        """How many seconds ago the region has last answered any call; infinite if none yet."""
        return time.monotonic() - self._answered.get(region, -math.inf)

    def _heard(self, region: str) -> None:
        self._answered[region] = time.monotonic()

    def polling(self, region: str) -> BatchedPolling:
        """What is waited for in a region, by all jobs together."""
        with self._lock:
            return self._polling.setdefault(region, BatchedPolling())

    def client(
        self,
        service: str,
        region: str,
        *,
        attempts: int = _ATTEMPTS,
        connections: int = _CONNECTIONS,
        seconds: float = _READ_SECONDS,
    ) -> Client:
        """Any service's client in a region, which keeps up to `connections` open.

        An answer is waited for `seconds`, a connection for no longer either.
        """
        key = (service, region, attempts, connections, seconds)
        # Making a client changes the session, which is not thread-safe; using one is.
        with self._lock:
            if key not in self._made:
                made = self._session.client(
                    service,
                    region_name=region,
                    config=Config(
                        connect_timeout=min(_CONNECT_SECONDS, seconds),
                        read_timeout=seconds,
                        retries={"mode": "standard", "total_max_attempts": attempts},
                        max_pool_connections=connections,
                        user_agent_extra=f"fedimg/{__version__}",
                    ),
                )
                made.meta.events.register("before-send", lambda **_: self._before(service, region))
                made.meta.events.register("after-call", lambda **_: self._heard(region))
                self._made[key] = made
            return self._made[key]
