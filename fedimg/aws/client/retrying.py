"""Clients that outlast EC2: calls wait until it answers, throttles less, takes credentials."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from fedimg.aws.client.availability import Watch
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import expired
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.config import Limits

#: For how long a call is tried again where others do not wait for its region, in seconds.
_BRIEF_SECONDS = 10


def _always() -> bool:
    return True


class Current:
    """A client of which each call is one try, with the credentials that there are by then.

    `get` is what makes the client, or has it ready; `keys_at_fault` whether a refusal of the
    credentials is theirs to answer for, and not the region's.
    """

    def __init__(
        self,
        clients: Clients,
        get: Callable[[], Client],
        keys_at_fault: Callable[[], bool] = _always,
    ) -> None:
        self._clients = clients
        self._get = get
        self._keys_at_fault = keys_at_fault

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**given: Any) -> Any:
            return self._once(lambda: getattr(self._get(), operation)(**given))

        return call

    def _once(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            if expired(error) and self._keys_at_fault():
                self._clients.renew()
            raise


class RetryingClient(Current):
    """EC2 in a region, through outages that `waiter` waits for: for calls that may be repeated.

    The waiter alone tries again: botocore's pauses, of up to 20 s, are not ended when a job is.
    """

    def __init__(
        self,
        clients: Clients,
        region: str,
        waiter: Waiter,
        *,
        brief: bool = False,
        keys_at_fault: Callable[[], bool] = _always,
    ) -> None:
        get = clients.ec2_brief if brief else clients.ec2_once
        super().__init__(clients, lambda: get(region), keys_at_fault)
        self._waiter = waiter

    def get_paginator(self, operation: str) -> Pages:
        """As boto3 has it; the pages come all at once."""
        return Pages(lambda: self._get().get_paginator(operation), self._once)

    def _once(self, call: Callable[[], Any]) -> Any:
        return self._waiter.outlasted(lambda: super(RetryingClient, self)._once(call))


class Pages:
    """A paginator whose pages are one call, begun anew where one of them fails."""

    def __init__(self, get: Callable[[], Any], once: Callable[[Callable[[], Any]], Any]) -> None:
        self._get = get
        self._once = once

    def paginate(self, **given: Any) -> list[dict[str, Any]]:
        """All pages."""
        pages: list[dict[str, Any]] = self._once(lambda: list(self._get().paginate(**given)))
        return pages


def prepare(clients: Clients, regions: Callable[[], Iterable[str]]) -> None:
    """Make the clients of regions in advance, in a thread: later nobody waits for them.

    The first takes a quarter of a second, for EC2's model, and each further one 5 ms.
    """

    def make() -> None:
        for region in regions():
            clients.ec2_once(region)

    threading.Thread(target=make, name="clients", daemon=True).start()


def briefly(clients: Clients, region: str, watch: Watch | None = None) -> RetryingClient:
    """EC2 in a region, asked again for some seconds: for a look that can do without an answer."""
    waiter = Waiter(Limits(outage=_BRIEF_SECONDS), threading.Event(), watch=watch)
    keys_at_fault = watch.keys_at_fault if watch else _always
    return RetryingClient(clients, region, waiter, brief=True, keys_at_fault=keys_at_fault)


def once(clients: Clients, region: str, watch: Watch | None = None) -> Current:
    """EC2 in a region, each call tried once: for calls that may have taken effect unseen."""
    keys_at_fault = watch.keys_at_fault if watch else _always
    return Current(clients, lambda: clients.ec2_once(region), keys_at_fault)
