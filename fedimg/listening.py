"""Ends a consumer that the broker knows nothing of, so that whoever starts it again has it listen.

fedora-messaging 3.9 takes up its queues again when it was cut off. Where the broker refuses it that
once, or closes the channel alone, it stays connected and hears nothing until somebody looks.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping
from threading import Thread
from typing import Any

from fedimg.broker_login import connected
from fedimg.outlets import BusError

#: How often the broker is asked, and how long it may take with a step of its answer, in seconds.
_EVERY, _CONNECT_SECONDS = 30.0, 10.0

_log = logging.getLogger(__name__)


def watch(settings: Mapping[str, Any]) -> None:
    """From here on, end this process when nobody has listened to a queue of its for half a minute.

    `settings` are fedora-messaging's. Where several consumers share a queue, that is when all of
    them are deaf.
    """
    Thread(target=_watch, args=[settings], name="listening", daemon=True).start()


def _watch(settings: Mapping[str, Any]) -> None:
    before: set[str] = set()
    while True:
        time.sleep(_EVERY)
        now = _deserted(settings)
        # Once may be in the middle of taking a queue up again.
        if both := before & now:
            names = ", ".join(map(repr, sorted(both)))
            _log.error("nobody listens to the queue %s: the consumer ends", names)
            # As systemd ends it, which starts it again.
            os.kill(os.getpid(), signal.SIGTERM)
            return
        before = now


def _deserted(settings: Mapping[str, Any]) -> set[str]:
    """The queues without a consumer, as far as the broker tells."""
    found: set[str] = set()
    for queue in settings["queues"]:
        try:
            with connected(settings, _CONNECT_SECONDS) as (connection, _):
                told = connection.channel().queue_declare(queue, passive=True)
        except BusError:
            # A broker that is away is looked for by the consumer itself.
            continue
        if told.method.consumer_count == 0:
            found.add(queue)
    return found
