"""Publish announcements to fedmsg through its relay, and confirm those that the relay sends out.

fedimg.bus.outbox_relay decides when a message is sent, and sent again.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import fedmsg.config
import fedmsg.core
import zmq

from fedimg.bus.messages import AWS_PUBLISHED
from fedimg.bus.publisher import BusError, MessageRefused
from fedimg.bus.signing import sign

MODNAME = "fedimg"
#: fedmsg's name of the relay's inbound endpoint, to which publishers connect.
_RELAY = "relay_inbound"
#: Wait for a new connection, in seconds: messages that are sent before ZeroMQ has connected are
#: lost, as they often were after shorter waits.
_SETTLE_SECONDS = 1.0
#: Most messages that one call receives.
_RECEIVE_BATCH = 1000


def configuration() -> dict[str, Any]:
    """Load the fedmsg configuration; the caller may change the returned copy.

    The files are those of fedmsg's own commands (/etc/fedmsg.d and others), or $FEDMSG_CONFIG, a
    file or a folder. Raises BusError when they cannot be read, or name no relay.
    """
    with warnings.catch_warnings():
        # fedmsg calls load_config deprecated, but all of its commands use it.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            loaded = fedmsg.config.load_config(filenames=_files(), invalidate_cache=True)
        except Exception as error:
            # Configuration files are programs, which may raise any kind of error.
            raise BusError(f"cannot read the fedmsg configuration: {error}") from error
    config = {**loaded, "endpoints": dict(loaded["endpoints"])}
    for key, value in (
        (_RELAY, config.get(_RELAY)),
        ('endpoints["relay_outbound"]', config["endpoints"].get("relay_outbound")),
    ):
        if not value:
            raise BusError(
                f"the fedmsg configuration has no {key}, the address of fedmsg-relay, through "
                "which announcements go: set it in /etc/fedmsg.d"
            )
    return config


def _files() -> list[str] | None:
    """Return the files that $FEDMSG_CONFIG names; None, fedmsg's default files, without it."""
    path = os.environ.get("FEDMSG_CONFIG")
    if not path:
        return None
    if Path(path).is_dir():
        return sorted(str(file) for file in Path(path).glob("*.py"))
    return [path]


class FedmsgPublisher:
    """A connection to the relay and one from it, for the thread that opens them.

    Args:
        config: the fedmsg configuration, which also says how messages are signed.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._prefix = f"{config['topic_prefix']}.{config['environment']}.{MODNAME}."
        self._listener = _listener(config, self._prefix)
        self._config = config
        # With GnuPG keys, fedmsg itself signs.
        self._signs = config["sign_messages"] and config.get("crypto_backend") != "gpg"
        try:
            self._publisher = fedmsg.core.FedMsgContext(
                **config
                | {
                    "active": True,
                    "sign_messages": config["sign_messages"] and not self._signs,
                    "name": _RELAY,
                    "post_init_sleep": max(_SETTLE_SECONDS, config["post_init_sleep"]),
                }
            )
        except BaseException:
            self._listener.context.destroy(linger=0)
            raise

    def close(self) -> None:
        """Close both connections."""
        self._publisher.destroy()
        self._listener.context.destroy(linger=0)

    def send(self, topic: str, body: dict[str, Any], key: str) -> str:
        """Send a message to the relay and return its msg_id, which is new each time, whatever
        `key`.

        fedmsg does not report whether the relay received the message. Raises MessageRefused for a
        message of another bus, and what signing and encoding raise.
        """
        if topic == AWS_PUBLISHED:
            raise MessageRefused("it has a schema on fedora-messaging alone")
        ids: list[str] = []

        def complete(message: dict[str, Any]) -> None:
            ids.append(message["msg_id"])
            if self._signs:
                sign(message, self._config)

        self._publisher.publish(topic=topic, msg=body, modname=MODNAME, pre_fire_hook=complete)
        return ids[0]

    def confirmed(self, seconds: float) -> list[tuple[str, str, Any]]:
        """Return msg_id, topic and body of each message of fedimg's that the relay has sent out.

        Waits up to `seconds` for the first message.
        """
        messages = []
        if not self._listener.poll(int(seconds * 1000)):
            return []
        for _ in range(_RECEIVE_BATCH):
            try:
                parts = self._listener.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            # Anybody can send anything on the bus: data that is not a fedmsg message is ignored.
            with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
                message = json.loads(parts[-1])
                topic = str(message["topic"]).removeprefix(self._prefix)
                messages.append((str(message["msg_id"]), topic, message["msg"]))
        return messages


def _listener(config: dict[str, Any], prefix: str) -> zmq.Socket[bytes]:
    socket = zmq.Context(config["io_threads"]).socket(zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    # These intervals, in milliseconds, find a restarted relay soon, and make no busy loop.
    socket.setsockopt(zmq.RECONNECT_IVL, config.get("zmq_reconnect_ivl", 100))
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, config.get("zmq_reconnect_ivl_max", 1000))
    # Without a limit: ZeroMQ drops messages beyond it, which would then be sent again.
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.SUBSCRIBE, prefix.encode())
    for endpoint in config["endpoints"]["relay_outbound"]:
        socket.connect(endpoint)
    return socket
