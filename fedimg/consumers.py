"""From the fedmsg bus to the queue: a thin adapter that runs inside fedmsg-hub.

What a message means is fedimg.intake.announcement's to say, what is done about it the worker's.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import Any

from fedmsg.consumers import FedmsgConsumer

from fedimg import config
from fedimg.bus import hub
from fedimg.bus.signatures import Fault, SignatureRefused, Signatures
from fedimg.intake import announcement
from fedimg.jobs.queue import JobQueue
from fedimg.store.store import Store, StoreError

#: Pauses before an entry that could not be stored is tried again, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
#: How often, in seconds, the count of refused messages is written down: a flood of them must not
#: become one of writes.
_COUNT_SECONDS = 5.0


class KojiConsumer(FedmsgConsumer):  # type: ignore[misc]
    """Stores each task, build and compose that may have made images, once however often it comes.

    What cannot be stored is held in memory and tried until it can: the bus does not repeat it,
    and a hub that ends instead would also miss what is announced before it is up again. While
    `validate_signatures` is on, what nobody who may send it has signed is refused, and counted.

    Args:
        hub: the moksha hub that loads it. The process ends with an error when the consumer is
            not enabled, fedimg's configuration is wrong, or the database cannot be used.
    """

    config_key = "fedimg.consumers.KojiConsumer.enabled"

    def __init__(self, moksha_hub: Any) -> None:
        # The hub logs an Exception and goes on without the consumer; SystemExit ends it.
        if not moksha_hub.config.get(self.config_key):
            sys.exit(
                f"fedimg: the fedmsg configuration does not say {self.config_key!r}: True; is "
                "fedmsg.d/fedimg.py installed? Without it the hub would listen for nothing"
            )
        try:
            settings = config.load()
            self._settings = settings
            self._directory, self._database = settings.state_directory, settings.database
            self._store = Store(self._directory, self._database)
        except (config.ConfigError, StoreError) as error:
            sys.exit(f"fedimg: {error}")
        self._jobs = JobQueue(self._store)
        self._prefix = f"{moksha_hub.config['topic_prefix']}.{moksha_hub.config['environment']}."
        self.topic = [self._prefix + each for each in announcement.topics(settings)]
        self._stopping = threading.Event()
        self._in_hand: set[str] = set()
        self._given_up: list[str] = []
        self._signatures = Signatures(moksha_hub.config)
        self._refused: Counter[str] = Counter()
        self._counting = threading.Lock()
        super().__init__(moksha_hub)
        if self.validate_signatures:
            threading.Thread(target=self._count, name="refused", daemon=True).start()
        else:
            self.log.warning("validate_signatures is off: anybody's messages are taken")
        hub.log_one_line_each()
        hub.stop_on_signals(moksha_hub, self.untaken)
        self._done_before = 0
        hub.keep_alive(self._moves)

    def consume(self, message: dict[str, Any]) -> None:
        """Store what a message announces; milliseconds, unless the database is in trouble."""
        entry = self._entry(message)
        if entry is None:
            return
        self._in_hand.add(entry)
        self._keep(entry)
        self._in_hand.discard(entry)

    def _consume(self, message: dict[str, Any]) -> Any:
        # Fedmsg's own checks the signature, here and again in the thread that consumes: of a busy
        # bus's messages most are not for us, whoever signed them. One that says two topics is.
        body = message["body"]
        said = body.get("topic") if isinstance(body, dict) else None
        if said == message["topic"] and self._entry(message) is None:
            return None
        return super()._consume(message)

    def validate(self, message: dict[str, Any]) -> None:
        """Let through what is believed. Raises RuntimeWarning, which the hub logs and no more."""
        if not self.validate_signatures:
            super().validate(message)
            return
        topic, body = message["topic"], message["body"]
        try:
            self._signatures.check(body)
            if body["topic"] != topic:
                raise SignatureRefused(Fault.SIGNER, "it was signed for another topic")
        except SignatureRefused as refused:
            with self._counting:
                self._refused[refused.fault] += 1
            raise RuntimeWarning(f"on {topic!a:.100}: refused, {refused}") from refused

    def untaken(self) -> list[str]:
        """The entries that were heard and are not stored yet."""
        waiting = [message for message in list(self.incoming.queue) if isinstance(message, dict)]
        heard = [*self._given_up, *self._in_hand, *map(self._entry, waiting)]
        return list(dict.fromkeys(entry for entry in heard if entry is not None))

    def stop(self) -> None:
        """Stop listening; what is held gets one more try each."""
        self._stopping.set()
        super().stop()
        self._note_refused()

    def _entry(self, message: dict[str, Any]) -> str | None:
        # ZeroMQ subscribes to all topics that begin with ours.
        topic = message.get("topic")
        if topic not in self.topic:
            return None
        body = message.get("body")
        content = body.get("msg") if isinstance(body, dict) else None
        return announcement.entry(str(topic).removeprefix(self._prefix), content, self._settings)

    def _keep(self, entry: str) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                self._jobs.take_in(entry)
                self.log.info("%s is stored", entry)
                return
            except Exception as error:
                # Of any kind: losing an announcement is worse than trying in vain.
                self.log.error(
                    "cannot store %s in %s, trying again in %g s: %s",
                    entry,
                    self._store.place,
                    pause,
                    error,
                )
            if self._stopping.wait(pause):
                self._given_up.append(entry)
                return
            pause = min(pause * 2, _LONGEST_PAUSE)
            self._reopen()

    def _moves(self) -> bool:
        """Whether messages were taken since the last time, or none waits, or one is held on to."""
        done, self._done_before = self.headcount_out, self.headcount_out
        return bool(self._in_hand) or self.incoming.empty() or done != self._done_before

    def _count(self) -> None:
        while not self._stopping.wait(_COUNT_SECONDS):
            self._note_refused()

    def _note_refused(self) -> None:
        """Write down how many were refused since the last time, for `fedimg check`."""
        with self._counting:
            counts, self._refused = self._refused, Counter()
        if not counts:
            return
        try:
            self._store.note_refused(counts)
        except Exception as error:
            # Of any kind, as with entries; but the log has each of them already.
            self.log.error("cannot count %d refused messages: %s", counts.total(), error)
            with self._counting:
                self._refused += counts

    def _reopen(self) -> None:
        """Open the database anew: its file may have been moved or replaced."""
        try:
            store = Store(self._directory, self._database)
        except StoreError as error:
            self.log.error("%s", error)
            return
        self._jobs.close()
        self._store.close()
        self._store, self._jobs = store, JobQueue(store)
