"""The fedmsg bus that announcements go to: a way in through the relay, and what comes out of it.

What is sent when, and sent again, is fedimg.bus.outbox_relay's to say.
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

from fedimg.bus.publisher import BusError
from fedimg.bus.signing import sign

MODNAME = "fedimg"
#: fedmsg's name for what a publisher connects to.
_RELAY = "relay_inbound"
#: A publisher's first messages are lost while it connects; shorter than this they often were.
_SETTLE_SECONDS = 1.0
_HEARD_AT_ONCE = 1000


def configuration() -> dict[str, Any]:
    """The fedmsg configuration of this process, a copy to change at will.

    It is read from where fedmsg's commands read it (/etc/fedmsg.d and others), or from
    $FEDMSG_CONFIG, a file or a folder, where fedmsg's library does. Raises BusError.
    """
    with warnings.catch_warnings():
        # fedmsg calls load_config deprecated, and reads folders by it in all of its commands.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            loaded = fedmsg.config.load_config(filenames=_files(), invalidate_cache=True)
        except Exception as error:
            # Configuration files are programs: they may raise anything.
            raise BusError(f"cannot read the fedmsg configuration: {error}") from error
    config = {**loaded, "endpoints": dict(loaded["endpoints"])}
    for key, value in (
        (_RELAY, config.get(_RELAY)),
        ('endpoints["relay_outbound"]', config["endpoints"].get("relay_outbound")),
    ):
        if not value:
            raise BusError(
                f"the fedmsg configuration has no {key}: announcements go through fedmsg-relay; "
                "set it in /etc/fedmsg.d"
            )
    return config


def _files() -> list[str] | None:
    place = os.environ.get("FEDMSG_CONFIG")
    if not place:
        return None
    if Path(place).is_dir():
        return sorted(str(path) for path in Path(place).glob("*.py"))
    return [place]


class FedmsgPublisher:
    """One connection to the relay and one from it, for the thread that makes it.

    Args:
        config: the fedmsg configuration, which says how messages are signed, too.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._prefix = f"{config['topic_prefix']}.{config['environment']}.{MODNAME}."
        self._listener = _listener(config, self._prefix)
        self._config = config
        # By GnuPG keys, fedmsg signs itself.
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
        """Let go of both connections."""
        self._publisher.destroy()
        self._listener.context.destroy(linger=0)

    def send(self, topic: str, body: dict[str, Any], key: str) -> str:
        """Hand a message to the relay, if there is one, and return its msg_id.

        fedmsg makes a new one each time, whatever the `key`. Nothing tells whether the relay took
        the message. Raises what signing and encoding raise.
        """
        sent: list[str] = []

        def complete(message: dict[str, Any]) -> None:
            sent.append(message["msg_id"])
            if self._signs:
                sign(message, self._config)

        self._publisher.publish(topic=topic, msg=body, modname=MODNAME, pre_fire_hook=complete)
        return sent[0]

    def confirmed(self, seconds: float) -> list[tuple[str, str, Any]]:
        """What has come out of the relay: msg_id, topic and body of each of fedimg's messages.

        Waits up to `seconds` for the first.
        """
        found = []
        if not self._listener.poll(int(seconds * 1000)):
            return []
        for _ in range(_HEARD_AT_ONCE):
            try:
                parts = self._listener.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            # Anyone may put anything on the bus; what is no message confirms none.
            with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
                message = json.loads(parts[-1])
                topic = str(message["topic"]).removeprefix(self._prefix)
                found.append((str(message["msg_id"]), topic, message["msg"]))
        return found


def _listener(config: dict[str, Any], prefix: str) -> zmq.Socket[bytes]:
    socket = zmq.Context(config["io_threads"]).socket(zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    # ZeroMQ's own intervals, 100 ms and no longer, make no busy loop and find a relay soon.
    socket.setsockopt(zmq.RECONNECT_IVL, config.get("zmq_reconnect_ivl", 100))
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, config.get("zmq_reconnect_ivl_max", 1000))
    # None of what is sent at once may be dropped on its way back.
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.SUBSCRIBE, prefix.encode())
    for endpoint in config["endpoints"]["relay_outbound"]:
        socket.connect(endpoint)
    return socket
