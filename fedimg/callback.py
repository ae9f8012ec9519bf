"""From the AMQP broker to the queue: a thin adapter that runs inside `fedora-messaging consume`.

What a message means is fedimg.intake.announcement's to say, what is done about it the worker's.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from fedora_messaging import config as bus
from fedora_messaging.exceptions import Nack, ValidationError
from fedora_messaging.message import Message, load_message_classes
from fedora_messaging.twisted import consumer

from fedimg import config
from fedimg.bus import amqp_liveness
from fedimg.bus.amqp_publisher import look_often
from fedimg.exceptions import exhausted
from fedimg.intake import announcement
from fedimg.jobs.queue import JobQueue
from fedimg.process import logs
from fedimg.store.store import Store

#: Pauses before what could not be stored goes back to the broker, in seconds: it comes again at
#: once. SIGTERM waits for the end of a pause.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
#: What Fedora's topics begin with, where fedora-messaging's `topic_prefix` does not say.
_FEDORA = re.compile(r"org\.fedoraproject\.(prod|stg|dev)\.")

_log = logging.getLogger(__name__)


class Callback:
    """Stores each task, build and compose that may have made images, once however often it comes.

    A message is acknowledged when its entry is stored, in milliseconds. What cannot be stored goes
    back to the broker, after a pause; what is not for us, or makes no sense, is dropped.

    The process ends with an error when fedimg's configuration is wrong, an installed package of
    schemas cannot be loaded, or memory or files run out, and ends when the broker knows of nobody
    who listens to its queue; the broker keeps the messages.
    """

    def __init__(self) -> None:
        logs.one_line_each()
        try:
            self._settings = config.load()
        except config.ConfigError as error:
            sys.exit(f"fedimg: {error}")
        self._prefix = str(bus.conf["topic_prefix"] or "").rstrip(".")
        self._jobs: JobQueue | None = None
        self._store: Store | None = None
        self._pause = _FIRST_PAUSE
        try:
            # Read at the first message otherwise, when all of them would be dropped for want of it.
            load_message_classes()
        except Exception as error:
            sys.exit(f"fedimg: cannot load the messages' schemas installed here: {error!r}")
        look_often()
        reader = vars(consumer)["get_message"]
        setattr(consumer, "get_message", _refusing(reader))  # noqa: B010
        amqp_liveness.watch(bus.conf)
        topics = ", ".join(announcement.topics(self._settings))
        _log.info("fedimg listens for %s", topics)

    def __call__(self, message: Message) -> None:
        """Store what a message announces. Raises Nack when that cannot be done now."""
        entry = announcement.entry(self._topic(message.topic), message.body, self._settings)
        if entry is None:
            _log.info("%s announces no image, and is dropped", _told(message))
            return
        try:
            before = self._open().take_in(entry)
        except Exception as error:
            # Of any kind: any other one would end the consumer.
            _log.error(
                "cannot store %s, it goes back to the broker in %g s: %s", entry, self._pause, error
            )
            self._close()
            time.sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            raise Nack from error
        self._pause = _FIRST_PAUSE
        _log.info("%s is stored; before, it was %s", entry, before)

    def _topic(self, whole: str) -> str:
        """A topic without the bus's prefix; empty when it has another."""
        if not self._prefix:
            return _FEDORA.sub("", whole, count=1)
        before, _, topic = whole.partition(f"{self._prefix}.")
        return "" if before else topic

    def _open(self) -> JobQueue:
        if self._jobs is None:
            self._store = Store(self._settings.state_directory, self._settings.database)
            self._jobs = JobQueue(self._store)
        return self._jobs

    def _close(self) -> None:
        """Open the database anew the next time: its file may have been moved or replaced."""
        jobs, store, self._jobs, self._store = self._jobs, self._store, None, None
        if jobs is not None:
            jobs.close()
        if store is not None:
            store.close()


def _refusing(read: Callable[..., Message]) -> Callable[..., Message]:
    """fedora-messaging's reading of a message, which drops whatever it cannot read.

    It lets through what unknown encodings, deep nesting and odd headers raise; the consumer ends
    then, and the next one gets the same message.
    """

    def get_message(*given: Any) -> Message:
        try:
            return read(*given)
        except ValidationError:
            raise
        except Exception as error:
            if exhausted(error):
                # It is not the message's fault: the broker keeps what this process cannot take.
                raise
            _log.warning("a message cannot be read, and is dropped: %.300r", error)
            raise ValidationError(error) from error

    return get_message


def _told(message: Message) -> str:
    """How a log names a message, of which everything is its sender's."""
    return f"message {ascii(message.id)[:80]} on {ascii(message.topic)[:200]}"
