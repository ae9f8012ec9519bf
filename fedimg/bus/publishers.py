"""The publishers of a site, by the names of their buses in the configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fedimg.bus.publisher import Publisher
from fedimg.config import FEDMSG


def publisher_for(bus: str, confirm_seconds: float) -> Callable[[], Publisher]:
    """How to connect to a bus, of which nothing is loaded by a site that does without.

    Raises BusError when what is configured, or installed, does not lead to it.
    """
    if bus == FEDMSG:
        from fedimg.bus import fedmsg_publisher as fedmsg

        return partial(fedmsg.FedmsgPublisher, fedmsg.configuration())
    from fedimg.bus import amqp_publisher

    amqp_publisher.configuration()
    return partial(amqp_publisher.AMQPPublisher, confirm_seconds)
