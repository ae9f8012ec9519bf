"""Ends a consumer that the broker knows nothing of, so that whoever starts it again has it listen.

fedora-messaging 3.9 takes up its queues again when it was cut off. Where the broker refuses it that
once, or closes the channel alone, it stays connected and hears nothing until somebody looks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from threading import Event
from typing import Any

from fedimg.bus.amqp_login import connected
from fedimg.bus.publisher import BusError
from fedimg.process.periodic import Periodic

#: How often the broker is asked, in seconds: seldom enough for a consumer that looks for its broker
#: every half minute to have found it in between. And how long connecting may take.
_EVERY, _CONNECT_SECONDS = 45.0, 10.0

_log = logging.getLogger(__name__)


def watch(settings: Mapping[str, Any]) -> None:
    """From here on, end this process with status 1 when nobody listens to a queue of its.

    `settings` are fedora-messaging's. The broker is asked every 45 seconds, and has to say so twice
    in a row. Where several consumers share a queue, that is when all of them are deaf.
    """
    # Of each connection pika tells in a dozen lines, and of each that fails in a traceback.
    logging.getLogger("pika").setLevel(logging.WARNING)
    for name in ("pika.adapters.blocking_connection", "pika.adapters.utils"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    Periodic("asking who listens", _Watch(settings).look, Event()).start()


class _Watch:
    """What the broker said the last time."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._before: set[str] = set()

    def look(self) -> float:
        """Look once; the seconds until the next time."""
        settings = self._settings
        now = {queue for queue in settings["queues"] if _deserted(settings, queue)}
        # Once may be in the middle of taking a queue up again.
        if both := self._before & now:
            names = ", ".join(map(repr, sorted(both)))
            _log.critical("nobody listens to the queue %s: the consumer ends", names)
            logging.shutdown()
            # At once: what was not acknowledged is delivered again, and stopping might wait for
            # whatever made it deaf.
            os._exit(1)
        self._before = now
        return _EVERY


def _deserted(settings: Mapping[str, Any], queue: str) -> bool:
    """Whether the broker says that a queue has no consumer."""
    try:
        with connected(settings, _CONNECT_SECONDS) as (connection, _):
            told = connection.channel().queue_declare(queue, passive=True)
    except BusError as error:
        # One that is away is looked for by the consumer itself, which says so.
        _log.debug("whether anybody listens to the queue %r is not known: %s", queue, error)
        return False
    return bool(told.method.consumer_count == 0)
