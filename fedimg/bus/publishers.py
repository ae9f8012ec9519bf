"""The publishers of a site, by the names of their buses in the configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fedimg.bus.publisher import Outlet
from fedimg.config import FEDMSG


def outlet(bus: str, confirm_seconds: float) -> Callable[[], Outlet]:
    """How to connect to a bus, of which nothing is loaded by a site that does without.

    Raises BusError when what is configured, or installed, does not lead to it.
    """
    if bus == FEDMSG:
        from fedimg.bus import fedmsg_publisher as fedmsg

        return partial(fedmsg.Bus, fedmsg.configuration())
    from fedimg.bus import amqp_publisher

    amqp_publisher.configuration()
    return partial(amqp_publisher.Broker, confirm_seconds)
