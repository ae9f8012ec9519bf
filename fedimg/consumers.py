"""Store what the fedmsg bus announces in the queue; runs inside fedmsg-hub.

fedimg.intake.announcement interprets the messages, and the worker processes the entries.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from itertools import count
from typing import Any

from fedmsg.consumers import FedmsgConsumer

from fedimg import config
from fedimg.bus import hub
from fedimg.bus.signatures import Fault, SignatureRefused, Signatures
from fedimg.intake import announcement
from fedimg.jobs.queue import JobQueue
from fedimg.process import logs
from fedimg.process.backoff import Backoff
from fedimg.process.systemd import MISCONFIGURED
from fedimg.process.wait_log import WaitLog
from fedimg.store.heartbeats import HUB, INTERVAL
from fedimg.store.store import Store, StoreError
from fedimg.untrusted.quoting import quoted

#: Pauses, in seconds, between two tries to store an entry.
_BACKOFF = Backoff(0.5, 30.0)
#: Seconds between two writes of the count of rejected messages, so that a flood of messages causes
#: no flood of writes.
_COUNT_SECONDS = 5.0


class KojiConsumer(FedmsgConsumer):  # type: ignore[misc]
    """Stores each announced task, build and compose that may have made images, once.

    An entry that cannot be stored is kept in memory and tried again: fedmsg does not repeat a
    message, and a hub that ended would also miss the messages until its restart. While
    `validate_signatures` is on, messages without a valid signature of a permitted signer are
    rejected and counted.

    Args:
        moksha_hub: the hub that loads the consumer. The process ends with an error when the
            consumer is not enabled, fedimg's configuration is invalid, or the database cannot be
            used.
    """

    config_key = "fedimg.consumers.KojiConsumer.enabled"

    def __init__(self, moksha_hub: Any) -> None:
        # The hub logs an Exception and runs without the consumer; SystemExit ends the hub.
        if not moksha_hub.config.get(self.config_key):
            logs.print_error(
                "fedimg: fedmsg-hub ends because its configuration does not enable the consumer "
                f'("{self.config_key}": True): install fedmsg.d/fedimg.py in /etc/fedmsg.d'
            )
            sys.exit(MISCONFIGURED)
        try:
            settings = config.load()
            self._settings = settings
            self._directory, self._database = settings.state_directory, settings.database
            self._store = Store(self._directory, self._database)
        except (config.ConfigError, StoreError) as error:
            logs.print_error(f"fedimg: {error}")
            passes = isinstance(error, StoreError | config.ConfigUnusableNow)
            sys.exit(1 if passes else MISCONFIGURED)
        self._jobs = JobQueue(self._store)
        self._prefix = f"{moksha_hub.config['topic_prefix']}.{moksha_hub.config['environment']}."
        self.topic = [self._prefix + each for each in announcement.topics(settings)]
        self._stopping = threading.Event()
        self._in_progress: set[str] = set()
        self._unstored: list[str] = []
        self._signatures = Signatures(moksha_hub.config)
        self._rejected: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._heard: float | None = None
        super().__init__(moksha_hub)
        if self.validate_signatures:
            threading.Thread(
                target=self._record_rejected_regularly, name="rejected messages", daemon=True
            ).start()
        else:
            self.log.warning(
                "validate_signatures is off in fedmsg's configuration: messages of any sender are "
                "accepted"
            )
        hub.log_one_line_each()
        hub.stop_on_signals(moksha_hub, self.unstored)
        self._done_before = 0
        hub.keep_alive(self._is_alive)
        self._unheard = WaitLog(self.log)
        hub.say_it_works(self._say_it_works, INTERVAL)

    def consume(self, message: dict[str, Any]) -> None:
        """Store what a message announces: within milliseconds, unless the database fails."""
        entry = self._entry(message)
        if entry is None:
            return
        self._in_progress.add(entry)
        self._save(entry)
        self._in_progress.discard(entry)

    def _consume(self, message: dict[str, Any]) -> Any:
        self._heard = time.time()
        # fedmsg would validate the signature of every message here, though most are not for fedimg:
        # skip those. A message that names two topics goes on, to be rejected.
        body = message["body"]
        signed_topic = body.get("topic") if isinstance(body, dict) else None
        if signed_topic == message["topic"] and self._entry(message) is None:
            return None
        return super()._consume(message)

    def validate(self, message: dict[str, Any]) -> None:
        """Validate the signature. Raises RuntimeWarning, which the hub logs, for a rejected
        message.
        """
        if not self.validate_signatures:
            super().validate(message)
            return
        topic, body = message["topic"], message["body"]
        try:
            self._signatures.verify(body)
            if body["topic"] != topic:
                raise SignatureRefused(Fault.SIGNER, "the message was signed for another topic")
        except SignatureRefused as error:
            with self._counting:
                self._rejected[error.fault] += 1
            raise RuntimeWarning(f"rejected a message on {quoted(topic, 100)}: {error}") from error

    def unstored(self) -> list[str]:
        """Return the entries that were received and are not stored yet."""
        waiting = [message for message in list(self.incoming.queue) if isinstance(message, dict)]
        received = [*self._unstored, *self._in_progress, *map(self._entry, waiting)]
        return list(dict.fromkeys(entry for entry in received if entry is not None))

    def stop(self) -> None:
        """Stop receiving; each entry in memory is tried once more."""
        self._stopping.set()
        super().stop()
        self._record_rejected()

    def _entry(self, message: dict[str, Any]) -> str | None:
        # ZeroMQ also delivers topics of which ours are a prefix.
        topic = message.get("topic")
        if topic not in self.topic:
            return None
        body = message.get("body")
        content = body.get("msg") if isinstance(body, dict) else None
        return announcement.entry(str(topic).removeprefix(self._prefix), content, self._settings)

    def _save(self, entry: str) -> None:
        for failures in count(1):
            pause = _BACKOFF.pause(failures)
            try:
                self._jobs.enqueue_entry(entry)
                self.log.info("%s is stored", entry)
                return
            except Exception as error:
                # Errors of any kind: a lost announcement is worse than a vain try.
                self.log.error(
                    "cannot store %s in %s, trying again in %g s: %s",
                    entry,
                    self._store.address,
                    pause,
                    error,
                )
            if self._stopping.wait(pause):
                self._unstored.append(entry)
                return
            self._reopen()

    def _is_alive(self) -> bool:
        """Return whether the consumer makes progress, has nothing to do, or is storing an entry."""
        before, self._done_before = self._done_before, self.headcount_out
        return bool(self._in_progress) or self.incoming.empty() or self._done_before != before

    def _say_it_works(self) -> None:
        """Record that the hub works, and when it last received a message of any sender."""
        try:
            self._store.beat(HUB, heard=self._heard)
        except Exception as error:
            # Errors of any kind, as with entries: those are what counts.
            self._unheard.waiting("beat", f"cannot record that the hub works: {error}")
        else:
            self._unheard.over("beat", "recording again that the hub works")

    def _record_rejected_regularly(self) -> None:
        while not self._stopping.wait(_COUNT_SECONDS):
            self._record_rejected()

    def _record_rejected(self) -> None:
        """Add the messages rejected since the last call to the database, for `fedimg check`."""
        with self._counting:
            counts, self._rejected = self._rejected, Counter()
        if not counts:
            return
        try:
            self._store.count_rejected(counts)
        except Exception as error:
            # Errors of any kind, as with entries; the log holds each rejected message already.
            self.log.error(
                "cannot record the count of %d rejected messages: %s", counts.total(), error
            )
            with self._counting:
                self._rejected += counts

    def _reopen(self) -> None:
        """Open the database again: its file may have been moved or replaced."""
        try:
            store = Store(self._directory, self._database)
        except StoreError as error:
            self.log.error("%s", error)
            return
        self._jobs.close()
        self._store.close()
        self._store, self._jobs = store, JobQueue(store)
