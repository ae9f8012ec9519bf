"""Publish announcements to the AMQP broker that fedora-messaging's configuration names.

fedimg.bus.outbox_relay decides when a message is sent, and sent again; the package fedimg-messages
holds the schemas of the messages.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import uuid
from typing import TYPE_CHECKING, Any

import jsonschema
from fedora_messaging import config, exceptions
from fedora_messaging.twisted.factory import FedoraMessagingFactoryV2

from fedimg.bus.messages import AWS_PUBLISHED
from fedimg.bus.publisher import BusError, BusUnavailable, MessageRefused, MessageReturned
from fedimg.untrusted import failures

if TYPE_CHECKING:
    from fedora_messaging.message import Message

#: Longest pause between two tries to reconnect, in seconds; Twisted's own grows to an hour.
_LONGEST_RECONNECT_PAUSE = 30.0
#: The first part of each topic, after topic_prefix.
_MODNAME = "fedimg"
#: Namespace of fedimg's message ids (RFC 9562, UUIDv5).
_ID_NAMESPACE = uuid.UUID("8d5a4d0e-6f0f-4c55-9a6e-5d2f6a3c1b7e")


def reconnect_often() -> None:
    """Make fedora-messaging reconnect to a broker that is down at least every 30 s."""
    FedoraMessagingFactoryV2.maxDelay = _LONGEST_RECONNECT_PAUSE  # type: ignore[assignment]


def configuration() -> dict[str, Any]:
    """Load fedora-messaging's configuration from $FEDORA_MESSAGING_CONF or /etc/fedora-messaging.

    It also makes fedora-messaging reconnect often. Raises BusError when the configuration cannot be
    read, or when the messages' schemas are not installed.
    """
    reconnect_often()
    try:
        config.conf.load_config()
    except exceptions.ConfigurationException as error:
        raise BusError(f"cannot read fedora-messaging's configuration: {error}") from error
    try:
        import fedimg_messages  # noqa: F401
    except ImportError as error:
        raise BusError(
            'bus = "fedora-messaging" needs the package fedimg-messages, which holds the '
            "messages' "
            f"schemas: install it from ./fedimg-messages of fedimg's sources ({error})"
        ) from error
    return dict(config.conf)


def message(topic: str, body: dict[str, Any], key: str) -> Message:
    """Return a message of fedimg's; `topic` is without prefix and modname, such as "image.upload".

    The website's message is of its own package's class, and its topic has another modname.

    A message that is sent twice, because the broker's confirmation was lost, for example, has the
    same id both times, so that readers can drop the second. Raises KeyError for an unknown topic.
    """
    from fedimg_messages import MESSAGES
    from fedora_image_uploader_messages import AwsPublishedV1

    result: Message
    if topic == AWS_PUBLISHED:
        result = AwsPublishedV1(topic=AWS_PUBLISHED, body=body)
    else:
        result = MESSAGES[topic](topic=f"{_MODNAME}.{topic}", body=body)
    result.id = str(uuid.uuid5(_ID_NAMESPACE, json.dumps([key, topic, body], sort_keys=True)))
    return result


class AMQPPublisher:
    """The connection to the broker, for one thread of this process.

    Args:
        confirm_seconds: timeout for the broker to confirm a message.
    """

    def __init__(self, confirm_seconds: float) -> None:
        self._seconds = max(1, math.ceil(confirm_seconds))
        self._confirmed: list[tuple[str, str, Any]] = []
        self._closed = threading.Event()
        # This library logs a traceback for each failure, which the outbox relay logs as one line.
        logging.getLogger("fedora_messaging.api").setLevel(logging.CRITICAL)

    def close(self) -> None:
        """Stop waiting; the connection itself belongs to the library and lasts as long as the
        process.
        """
        self._closed.set()

    def send(self, topic: str, body: dict[str, Any], key: str) -> str:
        """Send a message and return its id once the broker has confirmed it.

        Raises MessageRefused when the schema or the broker forbids this message, MessageReturned
        when the broker hands it back, BusUnavailable when the broker does not confirm it.
        """
        # This import installs Twisted's reactor, which fedmsg-hub chooses for itself.
        from fedora_messaging import api

        outgoing = message(topic, body, key)
        try:
            outgoing.validate()
        except jsonschema.ValidationError as error:
            raise MessageRefused(
                f"it does not fit the schema of its class: {error.message:.300}"
            ) from error
        try:
            api.publish(outgoing, timeout=self._seconds)
        except exceptions.PublishForbidden as error:
            raise MessageRefused(
                "the AMQP broker does not allow this user to publish it: "
                f"{failures.reason(error):.300}"
            ) from error
        except exceptions.PublishReturned as error:
            raise MessageReturned(
                "the AMQP broker handed it back, as a queue is full or no queue takes it: "
                f"{failures.reason(error):.300}"
            ) from error
        except Exception as error:
            # The libraries below raise any kind of error when a connection ends.
            reason = failures.reason(error)
            raise BusUnavailable(
                f"the AMQP broker did not confirm the message: {reason:.300}"
            ) from error
        self._confirmed.append((outgoing.id, topic, body))
        return outgoing.id

    def confirmed(self, seconds: float) -> list[tuple[str, str, Any]]:
        """Return the messages confirmed since the last call; wait up to `seconds` when there are
        none.
        """
        if not self._confirmed:
            self._closed.wait(seconds)
        confirmed, self._confirmed = self._confirmed, []
        return confirmed
