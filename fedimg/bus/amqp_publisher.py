"""The AMQP broker that announcements go to, as fedora-messaging's configuration names it.

fedimg.bus.outbox_relay decides what is sent when, and sent again; the package fedimg-messages says
what the messages look like to others.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import uuid
from typing import TYPE_CHECKING, Any

from fedora_messaging import config, exceptions
from fedora_messaging.twisted.factory import FedoraMessagingFactoryV2

from fedimg.bus.publisher import BusError, BusUnavailable

if TYPE_CHECKING:
    from fedora_messaging.message import Message

#: The longest pause, in seconds, before a broker that is away is looked for again. Twisted's own
#: grows to an hour.
_LONGEST_PAUSE = 30.0
#: Before every topic of ours.
_MODNAME = "fedimg"
#: What makes our messages' ids ours alone.
_IDS = uuid.UUID("8d5a4d0e-6f0f-4c55-9a6e-5d2f6a3c1b7e")


def look_often() -> None:
    """From here on, look often for a broker that is away."""
    FedoraMessagingFactoryV2.maxDelay = _LONGEST_PAUSE  # type: ignore[assignment]


def configuration() -> dict[str, Any]:
    """fedora-messaging's configuration, from $FEDORA_MESSAGING_CONF or /etc/fedora-messaging.

    From here on a broker that is away is looked for often. Raises BusError when it cannot be read,
    or the messages' schemas are not installed.
    """
    look_often()
    try:
        config.conf.load_config()
    except exceptions.ConfigurationException as error:
        raise BusError(f"cannot read fedora-messaging's configuration: {error}") from error
    try:
        import fedimg_messages  # noqa: F401
    except ImportError as error:
        raise BusError(
            'bus = "fedora-messaging" needs the package fedimg-messages, which has the messages\' '
            f"schemas: install ./fedimg-messages of fedimg's sources beside fedimg ({error})"
        ) from error
    return dict(config.conf)


def message(topic: str, body: dict[str, Any], key: str) -> Message:
    """One of fedimg's messages, by its topic without modname. Raises KeyError for no such.

    What is sent again, because the broker's confirmation was lost, say, has the same id: readers
    can tell it from a new one.
    """
    from fedimg_messages import MESSAGES

    made: Message = MESSAGES[topic](topic=f"{_MODNAME}.{topic}", body=body)
    made.id = str(uuid.uuid5(_IDS, json.dumps([key, topic, body], sort_keys=True)))
    return made


class AMQPPublisher:
    """The way to the broker, which one thread of this process may use.

    Args:
        confirm_seconds: how long the broker may take to confirm a message.
    """

    def __init__(self, confirm_seconds: float) -> None:
        self._seconds = max(1, math.ceil(confirm_seconds))
        self._taken: list[tuple[str, str, Any]] = []
        self._closed = threading.Event()
        # It logs the traceback of every failure, which is told in a line here.
        logging.getLogger("fedora_messaging.api").setLevel(logging.CRITICAL)

    def close(self) -> None:
        """Wait for nothing any more; the connection is the library's own, and the process's."""
        self._closed.set()

    def send(self, topic: str, body: dict[str, Any], key: str) -> str:
        """Hand a message to the broker and return its id, once the broker has confirmed it.

        Raises BusUnavailable when it has not, and what validation by the schema raises.
        """
        # Importing it chooses Twisted's reactor, which in fedmsg-hub is another's business.
        from fedora_messaging import api

        made = message(topic, body, key)
        made.validate()
        try:
            api.publish(made, timeout=self._seconds)
        except Exception as error:
            # Of any kind: the libraries below let through whatever a connection may end with.
            raise BusUnavailable(f"the AMQP broker has not confirmed it: {error!r:.300}") from error
        self._taken.append((made.id, topic, body))
        return made.id

    def confirmed(self, seconds: float) -> list[tuple[str, str, Any]]:
        """What the broker has confirmed since; waits up to `seconds` where that is nothing."""
        if not self._taken:
            self._closed.wait(seconds)
        taken, self._taken = self._taken, []
        return taken
