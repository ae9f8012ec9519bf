"""Find the publisher of a bus by the bus's name in the configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fedimg.bus.publisher import Publisher
from fedimg.config import FEDMSG


def publisher_for(bus: str, confirm_seconds: float) -> Callable[[], Publisher]:
    """Return a function that connects to a bus; load the libraries of this bus only.

    Raises BusError when the bus's configuration is unusable or a package is not installed.
    """
    if bus == FEDMSG:
        from fedimg.bus import fedmsg_publisher

        return partial(fedmsg_publisher.FedmsgPublisher, fedmsg_publisher.configuration())
    from fedimg.bus import amqp_publisher

    amqp_publisher.configuration()
    return partial(amqp_publisher.AMQPPublisher, confirm_seconds)
