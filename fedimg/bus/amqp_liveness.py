"""End a consumer process that the broker no longer delivers to, so that systemd starts it anew.

fedora-messaging 3.9 subscribes to its queues again after a lost connection. When the broker refuses
that subscription, or closes the channel only, the consumer stays connected and receives nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from threading import Event
from typing import Any

from fedimg.bus.amqp_login import connected
from fedimg.bus.publisher import BusError
from fedimg.process.periodic import Periodic

#: Seconds between two polls: a consumer reconnects within 30 s, so that it is back by the next
#: one.
_INTERVAL = 45.0
#: Seconds from the start to the first poll.
_START_SECONDS = 5.0
#: Timeout of each step of connecting to the broker, in seconds.
_CONNECT_SECONDS = 10.0

_log = logging.getLogger(__name__)


def watch(settings: Mapping[str, Any], works: Callable[[], object]) -> None:
    """Start a thread that ends this process with status 1 when one of its queues has no consumer.

    `settings` are fedora-messaging's. The thread asks the broker every 45 seconds, and a queue has
    to be without a consumer twice in a row. A queue that several consumers share counts only when
    all of them have lost it. `works` is called after each poll in which every queue has one.
    """
    # pika logs a dozen lines for each connection, and a traceback for each that fails.
    logging.getLogger("pika").setLevel(logging.WARNING)
    for name in ("pika.adapters.blocking_connection", "pika.adapters.utils"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    Periodic(
        "checking the queues' consumers", _Watch(settings, works).check_queues, Event()
    ).start()


class _Watch:
    """The polls of the queues; it remembers which queues had no consumer at the last poll."""

    def __init__(self, settings: Mapping[str, Any], works: Callable[[], object]) -> None:
        self._settings = settings
        self._works = works
        self._starting = True
        self._deserted: set[str] = set()

    def check_queues(self) -> float:
        """Poll all queues once; return the seconds until the next poll."""
        settings = self._settings
        if self._starting:
            # The consumer subscribes only after this thread has started.
            self._starting = False
            return _START_SECONDS
        states = {queue: _is_deserted(settings, queue) for queue in settings["queues"]}
        deserted = {queue for queue, state in states.items() if state}
        # One poll alone may fall into the middle of a new subscription.
        if twice := self._deserted & deserted:
            _log.critical(
                "the broker delivers queue %s to no consumer: this process ends with status 1, to "
                "be started anew",
                ", ".join(sorted(twice)),
            )
            logging.shutdown()
            # An orderly stop could hang in the broken connection; the broker delivers messages that
            # were not acknowledged again.
            os._exit(1)
        self._deserted = deserted
        if all(state is False for state in states.values()):
            self._works()
        return _INTERVAL


def _is_deserted(settings: Mapping[str, Any], queue: str) -> bool | None:
    """Return whether the broker says that a queue has no consumer; None when it does not
    answer.
    """
    try:
        with connected(settings, _CONNECT_SECONDS) as (connection, _):
            answer = connection.channel().queue_declare(queue, passive=True)
    except BusError as error:
        # The consumer itself reconnects to a broker that is down, and logs that.
        _log.debug("cannot count the consumers of queue %s: %s", queue, error)
        return None
    return bool(answer.method.consumer_count == 0)
