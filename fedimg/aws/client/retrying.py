"""Wrap clients so that calls survive outages, throttling and expired credentials."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fedimg.aws.client.availability import Watch
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import expired
from fedimg.aws.client.types import Client, EC2Client
from fedimg.aws.client.waiter import Waiter
from fedimg.config import Limits
from fedimg.process.memory import settle

#: For how long `briefly` retries a call, in seconds.
_BRIEF_SECONDS = 10


def _always() -> bool:
    return True


if TYPE_CHECKING:
    # To mypy each of these clients is boto3's own.
    _Base = EC2Client
else:
    _Base = object


class Current(_Base):
    """A client that makes each call once, with the credentials that are current by then.

    `get` returns the underlying client; `keys_at_fault` tells whether rejected credentials are to
    blame, rather than the region.
    """

    def __init__(
        self,
        clients: Clients,
        get: Callable[[], EC2Client],
        keys_at_fault: Callable[[], bool] = _always,
    ) -> None:
        self._clients = clients
        self._get = get
        self._keys_at_fault = keys_at_fault

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            return self._once(lambda: getattr(self._get(), operation)(**arguments))

        return call

    def _once(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            if expired(error) and self._keys_at_fault():
                self._clients.renew()
            raise


class RetryingClient(Current):
    """EC2's client for a region, or with `s3` that of S3, retried through outages by `waiter`, for
    calls that may be repeated.

    Only the waiter retries, since botocore's pauses of up to 20 s cannot be interrupted.
    """

    def __init__(
        self,
        clients: Clients,
        region: str,
        waiter: Waiter,
        *,
        brief: bool = False,
        keys_at_fault: Callable[[], bool] = _always,
        s3: bool = False,
    ) -> None:
        get: Callable[[str], Client] = clients.ec2_brief if brief else clients.ec2_once
        if s3:
            get = clients.s3_once
        super().__init__(clients, lambda: get(region), keys_at_fault)
        self._waiter = waiter

    def get_paginator(self, operation: Any) -> Any:
        """Return a paginator like boto3's, which returns all pages at once."""
        return Pages(lambda: self._get().get_paginator(operation), self._once)

    def _once(self, call: Callable[[], Any]) -> Any:
        return self._waiter.retried(lambda: super(RetryingClient, self)._once(call))


class Pages:
    """A paginator that reads all pages in one call, and starts again when one of them fails."""

    def __init__(self, get: Callable[[], Any], once: Callable[[Callable[[], Any]], Any]) -> None:
        self._get = get
        self._once = once

    def paginate(self, **arguments: Any) -> list[dict[str, Any]]:
        """Return all pages."""
        pages: list[dict[str, Any]] = self._once(lambda: list(self._get().paginate(**arguments)))
        return pages


def prepare(clients: Clients, regions: Callable[[], Iterable[str]]) -> None:
    """Create the clients of regions in a background thread, so that no job waits for them.

    The first takes a quarter of a second, for EC2's model, and each further one 5 ms.
    """

    def make() -> None:
        for region in regions():
            clients.ec2_once(region)
        settle()

    threading.Thread(target=make, name="clients", daemon=True).start()


def briefly(clients: Clients, region: str, watch: Watch | None = None) -> RetryingClient:
    """Return EC2's client for a region, retried for 10 seconds, for reads that can do without an
    answer.
    """
    waiter = Waiter(Limits(outage=_BRIEF_SECONDS), threading.Event(), watch=watch)
    keys_at_fault = watch.keys_at_fault if watch else _always
    return RetryingClient(clients, region, waiter, brief=True, keys_at_fault=keys_at_fault)


def once(clients: Clients, region: str, watch: Watch | None = None) -> Current:
    """Return EC2's client for a region without retries, for calls that may have taken effect
    unseen.
    """
    keys_at_fault = watch.keys_at_fault if watch else _always
    return Current(clients, lambda: clients.ec2_once(region), keys_at_fault)


def s3(clients: Clients, region: str, waiter: Waiter | None, watch: Watch | None = None) -> Client:
    """Return S3's client for a region, retried by `waiter`; without one, the caller retries.

    The waiter is to be one of the service S3, whose watch is beside EC2's.
    """
    keys_at_fault = watch.keys_at_fault if watch else _always
    if waiter is None:
        return Current(clients, lambda: clients.s3_once(region), keys_at_fault)
    return RetryingClient(clients, region, waiter, keys_at_fault=keys_at_fault, s3=True)
