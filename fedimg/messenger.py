"""From the outbox to the bus: each message is sent until it has been seen there.

What a message says is in fedimg.messages, how the bus is reached in fedimg.bus.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy.exc

from fedimg import bus
from fedimg.rows import Announcement
from fedimg.store import Store

#: The name of the thread that does it all.
THREAD = "messenger"
#: Messages that may be under way at once; ZeroMQ drops what exceeds 1000 in a queue.
WINDOW = 200
#: Messages read from the outbox at once. Those that the bus never takes, whatever the reason,
#: stay among them, so they have to be fewer.
_BATCH = 1000
#: How soon a new message is noticed, in seconds.
_LOOK_SECONDS = 0.25
#: The longest, in seconds, that a message which the bus does not take while it takes others is
#: let be; a person is told after this many tries.
_LONGEST_PAUSE = 3600.0
_STRANGE_TRIES = 4
#: Before all is set up anew after an error, in seconds.
_ERROR_PAUSE = 5.0

_log = logging.getLogger(__name__)


@dataclass
class _Sending:
    """One message of the outbox: how often and when it was sent, as what, when it is due again."""

    row: Announcement
    tries: int = 0
    sent: float = -math.inf
    due: float = 0.0
    ids: set[str] = field(default_factory=set)


class Messenger:
    """A thread that empties the outbox.

    A message leaves it when it is seen on the relay's outbound endpoint, with its topic and
    content: a relay that is down tells a publisher nothing. What is not seen within
    `confirm_seconds` is sent again. While nothing at all is seen, one message at a time is tried,
    so that a bus that takes messages and does not show them is not flooded.

    Of several workers one announces: the others wait until `turn` is set.
    """

    def __init__(
        self, store: Store, confirm_seconds: float, turn: threading.Event | None = None
    ) -> None:
        self._store = store
        self._turn = turn
        self._confirm = confirm_seconds
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        self._stop = threading.Event()
        self._deadline = math.inf
        self._config: dict[str, Any] = {}
        # Everything below belongs to the thread.
        self._sendings: dict[int, _Sending] = {}
        self._seen: set[int] = set()
        self._last_seen = -math.inf
        # A connection that is just being made swallows messages: begin with one.
        self._doubt = True
        self._warned = False

    def start(self) -> None:
        """Begin. Raises BusError when the fedmsg configuration leads to no relay."""
        self._config = bus.configuration()
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Send what is in the outbox, unless the bus is silent, and end within `timeout` seconds.

        What the bus has not been seen to take by then is sent again after the next start.
        """
        self._deadline = time.monotonic() + timeout
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while self._turn and not self._turn.wait(_LOOK_SECONDS):
            if self._stop.is_set():
                return
        while not self._stop.is_set():
            try:
                self._serve()
            except Exception:
                # The thread is the only way out for announcements: it has to go on.
                _log.exception("announcing failed; it begins again in %g s", _ERROR_PAUSE)
                self._stop.wait(_ERROR_PAUSE)

    def _serve(self) -> None:
        connection = bus.Bus(self._config)
        try:
            while not self._may_end():
                try:
                    self._read()
                    self._send(connection)
                    self._hear(connection)
                    self._note()
                except sqlalchemy.exc.DBAPIError as error:
                    _log.error("the outbox cannot be used, tried again soon: %s", error)
                    self._stop.wait(_ERROR_PAUSE)
        finally:
            connection.close()

    def _may_end(self) -> bool:
        if not self._stop.is_set():
            return False
        return self._warned or time.monotonic() > self._deadline or not self._store.unannounced(1)

    def _read(self) -> None:
        """Bring what is under way in line with the outbox."""
        self._sendings = {
            row.id: self._sendings.get(row.id) or _Sending(row)
            for row in self._store.unannounced(_BATCH)
            if row.id not in self._seen
        }

    def _send(self, connection: bus.Bus) -> None:
        """Send what is due, oldest first; in doubt, one message: one that was tried least."""
        now = time.monotonic()
        due = [sending for sending in self._sendings.values() if sending.due <= now]
        self._doubt_if_silent([sending for sending in due if sending.tries])
        under_way = len(self._sendings) - len(due)
        if self._doubt:
            room = 0 if under_way else 1
            due.sort(key=lambda sending: sending.tries)
        else:
            room = WINDOW - under_way
        for sending in due[: max(room, 0)]:
            self._send_one(connection, sending, now)

    def _doubt_if_silent(self, overdue: list[_Sending]) -> None:
        """Doubt the bus when it showed neither a message in time nor any that was sent later."""
        silent = [sending for sending in overdue if sending.sent > self._last_seen]
        if not silent:
            return
        if not self._doubt:
            self._doubt = True
            for sending in self._sendings.values():
                sending.due = 0.0
        if not self._warned:
            self._warned = True
            _log.warning(
                "the bus has not taken %s within %g s, %d messages wait: does fedmsg-relay run, "
                "and are relay_inbound and endpoints['relay_outbound'] its addresses?",
                silent[0].row.topic,
                self._confirm,
                len(self._sendings),
            )

    def _send_one(self, connection: bus.Bus, sending: _Sending, now: float) -> None:
        sending.tries += 1
        # Silence of the whole bus is no reason to let a single message be.
        pause = self._confirm * (1 if self._doubt else 2 ** min(sending.tries - 1, 20))
        sending.due = now + min(pause, max(_LONGEST_PAUSE, self._confirm))
        try:
            sending.ids.add(connection.send(sending.row.topic, sending.row.body))
            sending.sent = now
        except Exception as error:
            # Of signing or encoding, which may raise anything; the others need not wait for it.
            _log.error("cannot send %s (%s): %r", sending.row.topic, sending.row.key, error)
        if sending.tries == _STRANGE_TRIES and not self._doubt:
            _log.warning(
                "the bus takes other messages but not %s (%s)", sending.row.topic, sending.row.key
            )

    def _hear(self, connection: bus.Bus) -> None:
        """Notice which messages the bus has taken."""
        under_way = {each: sending for sending in self._sendings.values() for each in sending.ids}
        for message_id, topic, body in connection.heard(_LOOK_SECONDS):
            sending = under_way.get(message_id)
            if sending and (topic, body) == (sending.row.topic, sending.row.body):
                self._seen.add(sending.row.id)
                self._last_seen = time.monotonic()
        if self._doubt and self._seen:
            self._trust_again()

    def _trust_again(self) -> None:
        if self._warned:
            _log.warning("the bus takes messages again")
        self._doubt = self._warned = False
        for sending in self._sendings.values():
            sending.tries, sending.due = 0, 0.0

    def _note(self) -> None:
        if self._seen:
            self._store.announced(self._seen)
            self._seen.clear()
