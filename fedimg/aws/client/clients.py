"""Create one AWS client for each region, with timeouts, retries and a shared connection pool."""

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
from fedimg.aws.client.types import Client, EC2Client

# EC2 answers in well under a second, RunInstances in a few; a minute means a dead connection.
_CONNECT_SECONDS = 10
_READ_SECONDS = 60
# Without retries, a caller notices a region that hangs sooner.
_ONCE_SECONDS = 20
# For reads that can do without an answer.
_BRIEF_SECONDS = 5
# The back-off doubles from under a second: five tries take some ten seconds. A caller that can wait
# longer retries by itself (fedimg.aws.client.retrying).
_ATTEMPTS = 5
_CONNECTIONS = 20
# The partition of regions whose names have no form that boto3 knows.
_DEFAULT_PARTITION = "aws"
# Many threads see their credentials refused at once, and creating a session takes half a second.
_RENEW_SECONDS = 10


class Clients:
    """Every AWS client of one process; safe to use from many threads.

    Credentials, profile and endpoints come from boto3's own chain. `before` is called with service
    and region before each call and before each retry of it.
    """

    def __init__(self, before: Callable[[str, str], None] = lambda *_: None) -> None:
        self._before = before
        self._session: Any = service_model.session()
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, str, int, int, float], Client] = {}
        self._renewed = time.monotonic()
        self._polling: dict[str, BatchedPolling] = {}
        self._answered: dict[str, float] = {}
        #: The PV-GRUB kernels of those regions that a job has queried.
        self.kernels = Kernels()

    def renew(self) -> None:
        """Read the credentials again for future clients, since AWS has refused those in use.

        boto3 itself renews only credentials with an expiry time; it reads a file of keys once.
        """
        with self._lock:
            if time.monotonic() - self._renewed < _RENEW_SECONDS:
                return
            self._renewed = time.monotonic()
            self._session = service_model.session()
            self._clients.clear()

    def ec2(self, region: str) -> EC2Client:
        """Return EC2's client for a region; it retries throttled, failed and broken calls."""
        client: EC2Client = self.client("ec2", region)
        return client

    def ec2_once(self, region: str) -> EC2Client:
        """Return EC2's client for a region without retries: a job waits and retries by itself."""
        client: EC2Client = self.client("ec2", region, attempts=1, seconds=_ONCE_SECONDS)
        return client

    def ec2_brief(self, region: str) -> EC2Client:
        """Return EC2's client for a region without retries and with a timeout of 5 seconds, for
        reads.
        """
        client: EC2Client = self.client("ec2", region, attempts=1, seconds=_BRIEF_SECONDS)
        return client

    def s3_once(self, region: str) -> Client:
        """Return S3's client for a region without retries; a part may take a minute."""
        return self.client("s3", region, attempts=1, seconds=_READ_SECONDS)

    def s3_signing(self, region: str) -> Client:
        """Return S3's client for a region, for URLs that are signed: it calls nothing.

        They have the region's own endpoint in them. By itself boto3 would sign some of them by
        version 2, which covers no checksum, and name an endpoint that redirects.
        """
        endpoint = self.client("s3", region, attempts=1).meta.endpoint_url
        key = ("s3 signing", region, 0, 0, 0.0)
        with self._lock:
            if key not in self._clients:
                self._clients[key] = self._session.client(
                    "s3",
                    region_name=region,
                    endpoint_url=endpoint,
                    config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
                )
            return self._clients[key]

    def partition(self, region: str) -> str:
        """Return the partition of a region, such as `aws` or `aws-cn`.

        For a region that boto3 does not know and whose name has no known form, that is `aws`.
        """
        with self._lock:
            return partition_of(region, self._session)

    def has_service(self, service: str, region: str) -> bool:
        """Return whether a region has a service, by boto3's data.

        A region that the data does not have has every service: it may be newer than the data.
        """
        partition = self.partition(region)
        with self._lock:
            if region not in self._session.get_available_regions("ec2", partition_name=partition):
                return True
            return region in self._session.get_available_regions(service, partition_name=partition)

    def known_regions(self, like: str) -> list[str]:
        """Return the regions that boto3 knows in this one's partition (AWS's own or China's).

        EC2 is not asked, and an account may have fewer regions, or newer ones. For a region that
        boto3 does not know the list is empty.
        """
        with self._lock:
            try:
                partition = self._session.get_partition_for_region(like)
            except UnknownRegionError:
                return []
            return list(self._session.get_available_regions("ec2", partition_name=partition))

    def silent_for(self, region: str) -> float:
        """Return how many seconds ago EC2 last answered in a region; infinity if it never has."""
        return time.monotonic() - self._answered.get(region, -math.inf)

    def _note_answer(self, region: str) -> None:
        self._answered[region] = time.monotonic()

    def polling(self, region: str) -> BatchedPolling:
        """Return the polls of a region, shared by all jobs."""
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
        """Return a service's client for a region, which keeps up to `connections` open.

        `attempts` counts the first try. Connect and read timeouts are at most `seconds`.
        """
        key = (service, region, attempts, connections, seconds)
        # Creating a client changes the session, which is not thread-safe; using a client is.
        with self._lock:
            if key not in self._clients:
                client = self._session.client(
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
                client.meta.events.register(
                    "before-send", lambda **_: self._before(service, region)
                )
                if service == "ec2":
                    client.meta.events.register("after-call", lambda **_: self._note_answer(region))
                self._clients[key] = client
            return self._clients[key]


def partition_of(region: str, session: Any = None) -> str:
    """Return the partition of a region, such as `aws` or `aws-cn`, by a session's data or boto3's.

    For a region that boto3 does not know and whose name has no known form, that is `aws`.
    """
    try:
        return str((session or service_model.session()).get_partition_for_region(region))
    except UnknownRegionError:
        return _DEFAULT_PARTITION
