"""Store what the AMQP broker announces in the queue; runs inside `fedora-messaging consume`.

fedimg.intake.announcement interprets the messages, and the worker processes the entries.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from fedora_messaging import config as bus
from fedora_messaging.exceptions import Nack, ValidationError
from fedora_messaging.message import Message, load_message_classes
from fedora_messaging.twisted import consumer

from fedimg import config
from fedimg.bus import amqp_liveness, reactor_watchdog
from fedimg.bus.amqp_publisher import reconnect_often
from fedimg.exceptions import exhausted
from fedimg.intake import announcement
from fedimg.jobs.queue import JobQueue
from fedimg.process import logs, systemd
from fedimg.process.backoff import Backoff
from fedimg.process.wait_log import WaitLog
from fedimg.store.heartbeats import CONSUMER
from fedimg.store.store import Store
from fedimg.untrusted.failures import reason

#: Pauses, in seconds, before a message that could not be stored is returned to the broker, which
#: delivers it again at once. SIGTERM takes effect after the pause.
_BACKOFF = Backoff(0.5, 15.0)
#: The prefix of Fedora's topics, for a configuration without a `topic_prefix`.
_FEDORA_PREFIX = re.compile(r"org\.fedoraproject\.(prod|stg|dev)\.")

#: A message in hand for longer, in seconds, has met a database that hangs: SQLite itself gives up
#: within a minute.
_HUNG_SECONDS = 120.0

_log = logging.getLogger(__name__)


class Callback:
    """Stores each announced task, build and compose that may have made images, once.

    A message is acknowledged when its entry is stored, within milliseconds. A message that cannot
    be stored is returned to the broker after a pause; a message that cannot be read, or announces
    no image, is dropped.

    The process ends with an error when fedimg's configuration is invalid, an installed package of
    schemas cannot be loaded, memory or file descriptors run out, or the broker delivers a queue of
    the process to no consumer. The broker keeps the messages.
    """

    def __init__(self) -> None:
        logs.one_line_each()
        try:
            self._settings = config.load()
        except config.ConfigError as error:
            logs.print_error(f"fedimg: {error}")
            passes = isinstance(error, config.ConfigUnusableNow)
            sys.exit(1 if passes else systemd.MISCONFIGURED)
        self._prefix = str(bus.conf["topic_prefix"] or "").rstrip(".")
        self._jobs: JobQueue | None = None
        self._store: Store | None = None
        self._failures = 0
        self._heard: float | None = None
        self._unheard = WaitLog(_log)
        try:
            # Otherwise loaded at the first message, and a failure would drop all messages.
            load_message_classes()
        except Exception as error:
            logs.print_error(
                "fedimg: cannot load the installed message schemas, entry points of the group "
                f"fedora.messages: {str(error) or type(error).__name__}"
            )
            sys.exit(1)
        reconnect_often()
        reader = vars(consumer)["get_message"]
        setattr(consumer, "get_message", _validating(reader))  # noqa: B010
        amqp_liveness.watch(bus.conf, self._say_it_works)
        self._since: float | None = None
        reactor_watchdog.keep_alive(vars(consumer)["reactor"], self._is_alive)
        topics = ", ".join(announcement.topics(self._settings))
        _log.info("waiting for messages on %s", topics)

    def __call__(self, message: Message) -> None:
        """Store what a message announces. Raises Nack when the database cannot be used."""
        self._since = time.monotonic()
        try:
            self._take(message)
        finally:
            self._since = None

    def _take(self, message: Message) -> None:
        self._heard = time.time()
        entry = announcement.entry(self._topic(message.topic), message.body, self._settings)
        if entry is None:
            _log.info("dropped %s: it announces no image", _quoted(message))
            return
        try:
            earlier_state = self._open().enqueue_entry(entry)
        except Exception as error:
            # Errors of any kind: all but Nack would end the consumer.
            self._failures += 1
            pause = _BACKOFF.pause(self._failures)
            _log.error(
                "cannot store %s, returning it to the broker in %g s: %s", entry, pause, error
            )
            self._close()
            time.sleep(pause)
            raise Nack from error
        self._failures = 0
        _log.info("%s is stored; earlier state: %s", entry, earlier_state)

    def _is_alive(self) -> bool:
        """Return whether no message has been in hand for much longer than a failing one may be."""
        since = self._since
        return since is None or time.monotonic() - since < _HUNG_SECONDS

    def _say_it_works(self) -> None:
        """Record that the broker delivers to this consumer, and when it last did so."""
        # A store of its own, as the thread that stores entries may close the other at any time.
        try:
            with closing(Store(self._settings.state_directory, self._settings.database)) as store:
                store.beat(CONSUMER, heard=self._heard)
        except Exception as error:
            # Errors of any kind, as with entries: those are what counts.
            self._unheard.waiting("beat", f"cannot record that the consumer works: {error}")
        else:
            self._unheard.over("beat", "recording again that the consumer works")

    def _topic(self, whole: str) -> str:
        """Return a topic without the bus's prefix; empty when it has another prefix."""
        if not self._prefix:
            return _FEDORA_PREFIX.sub("", whole, count=1)
        before, _, topic = whole.partition(f"{self._prefix}.")
        return "" if before else topic

    def _open(self) -> JobQueue:
        if self._jobs is None:
            self._store = Store(self._settings.state_directory, self._settings.database)
            self._jobs = JobQueue(self._store)
        return self._jobs

    def _close(self) -> None:
        """Close the database, to be opened again: its file may have been moved or replaced."""
        jobs, store, self._jobs, self._store = self._jobs, self._store, None, None
        if jobs is not None:
            jobs.close()
        if store is not None:
            store.close()


def _validating(read: Callable[..., Message]) -> Callable[..., Message]:
    """Return fedora-messaging's reader of messages, changed to drop each message it cannot read.

    The original raises other errors than ValidationError for unknown encodings, deep nesting and
    unusual headers, at which the consumer ends and the next one receives the same message.
    """

    def get_message(*args: Any) -> Message:
        try:
            return read(*args)
        except ValidationError:
            raise
        except Exception as error:
            if exhausted(error):
                # The process, not the message, is at fault: the broker has to keep the message.
                raise
            _log.warning("dropped a message that cannot be read: %s", reason(error))
            raise ValidationError(error) from error

    return get_message


def _quoted(message: Message) -> str:
    """Return the name of a message for the log; its id and topic are foreign text."""
    return f"message {ascii(message.id)[:80]} on {ascii(message.topic)[:200]}"
